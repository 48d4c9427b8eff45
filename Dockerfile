# One image for worker, trainer, publisher and topic creation: `docker build -t layercache .`
#
#   --build-arg TORCH_INDEX=cpu        torch's CPU build (the default); any other backend that uv knows: cu128, rocm6.4, xpu, …
#   --build-arg TORCH_INDEX=https://…  from this package index, a mirror of your own for example
#   --build-arg TORCH_INDEX=           what pip's own index offers, on Linux with CUDA's libraries (about 5 GB)

FROM python:3.11-slim-bookworm AS requirements
COPY pyproject.toml .
# By themselves, so that the layer of packages below is built again when they change, not whenever pyproject.toml does.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; x = p['optional-dependencies']; \
    print(*p['dependencies'], *x['s3'], *x['video'], sep='\n')" > requirements.txt

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG TORCH_INDEX=cpu
RUN --mount=type=cache,target=/root/.cache \
    python -m venv /opt/venv \
 && case "$TORCH_INDEX" in \
      "") ;; \
      *://*) pip install --index-url "$TORCH_INDEX" torch torchvision ;; \
      *) python -m venv /tmp/uv && /tmp/uv/bin/pip install -q uv \
         && { /tmp/uv/bin/uv pip install --python /opt/venv/bin/python --torch-backend "$TORCH_INDEX" torch torchvision \
              || echo "WARNING: torch's index for '$TORCH_INDEX' failed; taking the build of pip's own index, a larger one" >&2; } \
         && rm -r /tmp/uv ;; \
    esac
COPY --from=requirements requirements.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache pip install -r /tmp/requirements.txt

# The one user that anything here runs as. What it may write to are volumes, so that the root file system can be read-only.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin layercache \
 && install -d -o layercache -g layercache /heads /state /home/layercache/.cache
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY early_exit early_exit
COPY stream stream
COPY cache_training cache_training
COPY layercache layercache
RUN --mount=type=cache,target=/root/.cache pip install --no-deps .
COPY examples examples
# By number: Kubernetes' runAsNonRoot can tell it from root's.
USER 10001:10001
ENTRYPOINT ["layercache"]
CMD ["--help"]
