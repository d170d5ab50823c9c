"""Conformance of the policy: log-probs, losses, gradients, optimizer steps, saving and resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...losses import xp
from ...model_files.folder import read_header, weight_files
from ...model_files.safetensors import read_tensor
from ..numpy_model import training as truth
from ..numpy_model.training import NumpyAdamW
from ..parity.workload import BATCHES
from .backend_under_test import AFTER_RESUME, STEPS, BackendUnderTest
from .comparisons import Deviates, equal, identical, tensors_within, within


def weights_are_those_of_the_folder(backend: BackendUnderTest) -> None:
    """Every weight is loaded exactly, under its Hugging Face name."""
    identical("weights as loaded", backend.start.weights(), backend.initial)


def log_probs_and_entropies(backend: BackendUnderTest) -> None:
    """Log-probs and entropies of tokens agree at two temperatures, and are 0 past each length."""
    for temperature in backend.workload.temperatures:
        batch = replace(backend.batches[0], temperature=temperature)
        actual = backend.start.policy.logps(batch, entropy=True)
        within(
            f"log-probs at temperature {temperature:g}",
            actual.logps,
            truth.logps(backend.truth(), batch),
            backend.limits.log_probs,
        )
        within(
            f"entropies at temperature {temperature:g}",
            actual.entropy,
            truth.entropy(backend.truth(), batch),
            backend.limits.log_probs,
        )


def log_probs_after_each_layer(backend: BackendUnderTest) -> None:
    """Log-probs read through the final norm and the head agree after every layer."""
    stack, batch = backend.start, backend.batches[0]
    actual = stack.backend.inspect(stack.policy).layer_logps(batch)
    expected = truth.layer_logps(backend.truth(), batch)
    equal("layer ends", len(actual), len(expected))
    for end, (one, other) in enumerate(zip(actual, expected, strict=True)):
        within(f"log-probs after {end} layers", one, other, backend.limits.log_probs)


def losses_and_gradients(backend: BackendUnderTest) -> None:
    """Losses and gradients by parameter agree; the policy is unchanged. Micro-batches check the loss of the steps."""
    stack, batch = backend.start, backend.batches[0]
    before = stack.policy.fingerprint()
    inspection = stack.backend.inspect(stack.policy)
    for name, loss in backend.workload.losses.items():
        if name == backend.workload.trained_with:
            continue
        value, gradients = inspection.gradients(batch, loss)
        true_value, true_gradients = truth.loss_and_gradients(backend.truth(), batch, loss)
        within(f"loss ({name})", value, true_value, backend.limits.log_probs)
        tensors_within(f"gradients ({name})", gradients, true_gradients, backend.limits.norm)
    equal("fingerprint after gradients were taken", stack.policy.fingerprint(), before)


def tokens_of_an_environment_are_context_only(backend: BackendUnderTest) -> None:
    """Rows with tokens that an environment wrote have the loss and gradients of plain rows with the same mask.

    Their log-probs are those of the plain rows where tokens were sampled, and 0 elsewhere.
    """
    plain, loss = backend.batches[0], backend.workload.losses[backend.workload.trained_with]
    places = np.arange(plain.ids.shape[1])[None, :]
    last = np.asarray(plain.lengths, np.int64)[:, None] - 1
    sampled = (places <= last) & ((places % 3 != 1) | (places == last))
    masked = replace(plain, mask=plain.mask * sampled, weights=plain.weights * sampled)
    talked = replace(masked, sampled=sampled)
    stack, limits = backend.start, backend.limits
    logps = stack.policy.logps(plain, entropy=True)
    actual = stack.policy.logps(talked, entropy=True)
    within("log-probs of sampled tokens", actual.logps, np.where(sampled, logps.logps, 0.0), limits.log_probs)
    assert logps.entropy is not None
    assert actual.entropy is not None
    within("entropies of sampled tokens", actual.entropy, np.where(sampled, logps.entropy, 0.0), limits.log_probs)
    inspection = stack.backend.inspect(stack.policy)
    value, gradients = inspection.gradients(talked, loss)
    true_value, expected = inspection.gradients(masked, loss)
    within("loss of turns", value, true_value, limits.log_probs)
    tensors_within("gradients of turns", gradients, expected, limits.norm)


def gradients_do_not_depend_on_micro_batches(backend: BackendUnderTest) -> None:
    """One micro-batch gives the same gradients as many."""
    loss = backend.workload.losses[backend.workload.trained_with]
    cut = backend.stack(train={"tokens_per_micro_batch": 40})
    value, gradients = cut.backend.inspect(cut.policy).gradients(backend.batches[0], loss)
    true_value, expected = truth.loss_and_gradients(backend.truth(), backend.batches[0], loss)
    within("loss in micro-batches", value, true_value, backend.limits.log_probs)
    tensors_within("gradients in micro-batches", gradients, expected, backend.limits.norm)


def layouts_agree(backend: BackendUnderTest) -> None:
    """Both layouts of prompts give the same results."""
    plain = backend.stack(model={"layout": "plain"}).policy
    equal("layout that was asked for", plain.layout, "plain")
    batch = backend.batches[0]
    within(
        "log-probs in the plain layout",
        plain.logps(batch).logps,
        truth.logps(backend.truth(), batch),
        backend.limits.log_probs,
    )


def true_weights(backend: BackendUnderTest, steps: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Weights after so many steps in NumPy, with gradients clipped as the workload says."""
    model, workload = backend.truth(), backend.workload
    optimizer = NumpyAdamW(
        betas=workload.betas, weight_decay=workload.weight_decay, max_grad_norm=workload.max_grad_norm
    )
    for number in range(steps):
        batch, loss = backend.batches[number % BATCHES], workload.losses[workload.trained_with]
        _, gradients = truth.loss_and_gradients(model, batch, loss)
        optimizer.step(model.weights, gradients, learning_rate=workload.learning_rate)
    return model.weights


def one_optimizer_step(backend: BackendUnderTest) -> None:
    """Loss, gradient norm before clipping, metric sums and the weights after one step agree."""
    batch, loss = backend.batches[0], backend.workload.losses[backend.workload.trained_with]
    result = backend.training.updates[0]
    value, gradients = truth.loss_and_gradients(backend.truth(), batch, loss)
    within("loss of the first step", result.loss, value, backend.limits.log_probs)
    norm = truth.global_norm(gradients)
    within("gradient norm of the first step, relative", result.grad_norm / norm, 1.0, backend.limits.norm)
    logps = truth.logps(backend.truth(), batch)
    tensors = {name: np.asarray(array, np.float64) for name, array in batch.loss_tensors().items()}
    sums = {name: float(number) for name, number in loss(xp.NUMPY, logps, tensors)[1].items()}
    tokens = float(batch.mask.sum())
    spread = truth.entropy(backend.truth(), batch)
    sums |= {"tokens": tokens, "entropy": float((spread * batch.mask).sum())}
    equal("names of metric sums", sorted(result.sums), sorted(sums))
    for name, number in sums.items():
        within(f"metric sum {name}, by token", result.sums[name] / tokens, number / tokens, backend.limits.sums)
    tensors_within("weights after one step", backend.training.weights[1], true_weights(backend, 1), backend.limits.norm)


def twenty_optimizer_steps(backend: BackendUnderTest) -> None:
    """Twenty AdamW steps with weight decay and clipping, on two batches in turn, end at the same weights."""
    tensors_within(
        f"weights after {STEPS} steps",
        backend.training.weights[STEPS],
        true_weights(backend, STEPS),
        backend.limits.norm,
    )


def the_reference_is_not_trained(backend: BackendUnderTest) -> None:
    """The reference's log-probs after training are those of the initial weights."""
    batch = backend.batches[0]
    within(
        "reference log-probs", backend.training.reference, truth.logps(backend.truth(), batch), backend.limits.log_probs
    )


def a_saved_model_is_a_hugging_face_folder(backend: BackendUnderTest) -> None:
    """A saved model has config.json and the trained weights in safetensors, by their names."""
    trained, folder = backend.training.weights[STEPS], backend.saved / "model"
    if not (folder / "config.json").is_file():
        raise Deviates(f"{folder.name} has no config.json")
    saved = {name: read_tensor(file, info) for file in weight_files(folder) for name, info in read_header(file).items()}
    identical("saved weights", saved, trained)


def resumed_training_is_the_same_bit_for_bit(backend: BackendUnderTest) -> None:
    """Another policy that loads the saved state goes on with the same weights."""
    expected = backend.training.weights[STEPS + AFTER_RESUME]
    stack = backend.stack()
    stack.policy.load_state(backend.saved / "model", backend.saved / "state")
    equal("fingerprint after loading", stack.policy.fingerprint(), backend.training.fingerprints[1])
    for number in range(STEPS + 1, STEPS + AFTER_RESUME + 1):
        result = backend.step(stack.policy, number)
        equal(f"loss of step {number} after resuming", result.loss, backend.training.updates[number - 1].loss)
    identical("weights after resuming", stack.weights(), expected)


def an_empty_batch_is_a_step_without_gradient(backend: BackendUnderTest) -> None:
    """An empty batch takes part in a step: only weight decay acts."""
    stack, workload = backend.stack(), backend.workload
    empty = backend.batches[0].take([])
    equal("log-probs of an empty batch", len(stack.policy.logps(empty).logps), 0)
    result = stack.policy.update(empty, workload.losses[workload.trained_with], learning_rate=workload.learning_rate)
    equal("loss, gradient norm, tokens", (result.loss, result.grad_norm, result.sums["tokens"]), (0.0, 0.0, 0.0))
    decay = 1.0 - workload.learning_rate * workload.weight_decay
    expected = {name: weight * decay for name, weight in backend.truth().weights.items()}
    tensors_within("weights after an empty step", stack.weights(), expected, backend.limits.stored)


def a_gradient_that_is_not_finite_stops_the_run(backend: BackendUnderTest) -> None:
    """``update`` raises RunFailed and leaves the weights as they are."""
    before, after, refused = backend.training.broken
    if not refused:
        raise Deviates("an infinite gradient was applied; update must raise RunFailed")
    equal("fingerprint after a refused step", after, before)


CHECKS = (
    weights_are_those_of_the_folder, log_probs_and_entropies, log_probs_after_each_layer, losses_and_gradients,
    tokens_of_an_environment_are_context_only,
    gradients_do_not_depend_on_micro_batches, layouts_agree, one_optimizer_step, twenty_optimizer_steps,
    the_reference_is_not_trained, a_saved_model_is_a_hugging_face_folder, resumed_training_is_the_same_bit_for_bit,
    an_empty_batch_is_a_step_without_gradient, a_gradient_that_is_not_finite_stops_the_run,
)  # fmt: skip
