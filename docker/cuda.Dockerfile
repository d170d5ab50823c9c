# PyTorch on NVIDIA GPUs. This image has never been built.
#   docker build -f docker/cuda.Dockerfile -t mindrlhf-grpo:cuda .
#   docker run --rm --gpus all -v "$PWD/runs:/app/runs" mindrlhf-grpo:cuda
FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends gcc git libc6-dev make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
# The default torch package on Linux brings its CUDA libraries along.
RUN make setup
CMD ["make", "train"]
