# The image of all pods: docker build --build-arg VARIANT=gpu --tag caption-serve:0.1.0-gpu .
ARG RAY_VERSION=2.60.0
# cpu or gpu
ARG VARIANT=cpu
FROM rayproject/ray:${RAY_VERSION}-py311-${VARIANT}

# Index for torch alone, where pip's default one has another build than wanted; empty: pip's default.
ARG TORCH_INDEX=""
# Hub id whose weights go into the image, for k8s/components/offline; empty: none. REVISION pins it.
ARG MODEL=""
ARG REVISION=""

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

USER 0:0
# KubeRay's readiness probe of serving pods calls wget; Ray's images have it, and a build without should fail.
RUN command -v wget && install --directory --owner 1000 --group 100 /models /home/ray/caption-serve
# ray in Ray's images; a number, so that Kubernetes can tell that it is not root
USER 1000:100

WORKDIR /home/ray/caption-serve
COPY --chown=1000:100 constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --requirement torch.txt
COPY --chown=1000:100 pyproject.toml README.md LICENSE NOTICE ./
COPY --chown=1000:100 serve_app serve_app
RUN pip install --no-cache-dir --constraint constraints.txt '.[all]' && rm -rf build ./*.egg-info serve_app

WORKDIR /home/ray
ENV RAY_USAGE_STATS_ENABLED=0 HF_HUB_DISABLE_TELEMETRY=1
RUN if [ -n "${MODEL}" ]; then \
      HF_HUB_CACHE=/models python -c \
        'import sys; from serve_app.engine.checkpoint import resolve; resolve(sys.argv[1], sys.argv[2] or None)' \
        "${MODEL}" "${REVISION}"; \
    fi
