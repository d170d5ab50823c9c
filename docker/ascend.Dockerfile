# MindSpore on Ascend (Atlas A2; for A3 replace 910b with a3). This image has never been built.
# Driver and firmware come from the host (docs/mindspore.md names the versions).
#   docker build -f docker/ascend.Dockerfile -t mindrlhf-grpo:ascend .
#   docker run --rm --device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc \
#     -v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro -v "$PWD/runs:/app/runs" mindrlhf-grpo:ascend
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ gcc git libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make setup BACKEND=mindspore
RUN .venv/bin/python -m pip install --extra-index-url https://ascend.devcloud.huaweicloud.com/cann/pypi/simple \
    ascend-cann-toolkit==9.1.0 ascend-cann-910b-ops==9.1.0 \
    attrs==26.1.0 cython decorator cffi pathlib2
ENV LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64/driver
CMD ["bash", "-c", "source .venv/lib/python3.11/site-packages/ascend/cann-9.1.0/set_env.sh && make train BACKEND=mindspore"]
