# PyTorch on the processor: make train, make test. This image has never been built.
#   docker build -f docker/cpu.Dockerfile -t mindrlhf-grpo:cpu .
#   docker run --rm -v "$PWD/runs:/app/runs" mindrlhf-grpo:cpu
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc git libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make setup
CMD ["make", "train"]
