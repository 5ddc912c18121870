# What HEAD of this clone holds, and its environment; docs/install.md has the commands. TORCH_INDEX is the address of another index of
# torch's builds, for example of those without CUDA; without it torch comes as the package index has it, on x86-64 with CUDA.
FROM python:3.11-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -r /var/lib/apt/lists/*
RUN useradd --create-home semmae

FROM base AS commit
# Neither files that git does not know nor the settings of the clone, which may hold credentials.
COPY .git /clone/.git
RUN git clone --quiet /clone /semmae && git -C /semmae remote remove origin

FROM base
COPY --from=commit --chown=semmae /semmae /semmae
WORKDIR /semmae
ARG TORCH_INDEX=""
# Outside of /semmae, which is a volume.
RUN python -m venv /opt/venv && ln -s /opt/venv .venv \
    && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt --editable '.[formats,plots,s3]' \
    && touch .venv/ready
ENV PATH=/semmae/.venv/bin:$PATH DVC_NO_ANALYTICS=1 DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true
USER semmae
VOLUME /semmae
CMD ["make", "run"]
