# The environment of requirements.lock, for Kubernetes and wherever else nothing can be installed:
#   docker build -t YOUR_REGISTRY/spiking-diffusion:0.1.0 .
#   docker push YOUR_REGISTRY/spiking-diffusion:0.1.0
FROM python:3.11-slim-bookworm

# The compiler builds the kernels on first use. Versions are Debian's, which keeps only its newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git rsync \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/spiking-diffusion
# The lock comes first, so that a change of the code does not install it again.
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

# hadolint ignore=DL3059
RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /home/user
CMD ["spiking-diffusion", "--help"]
