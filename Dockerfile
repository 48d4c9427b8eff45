# One image for every role, worker, trainer, dashboard, publisher, topic creation: `docker build -t layercache .`
#
#   --build-arg TORCH_INDEX=cpu        torch's CPU build (the default); any other backend that uv knows: cu128, rocm6.4, xpu, …
#   --build-arg TORCH_INDEX=https://…  from this package index, a mirror of your own for example
#   --build-arg TORCH_INDEX=           what pip's own index offers, on Linux with CUDA's libraries (about 5 GB)
#   --build-arg EXTRAS="s3 timm"       these extras of pyproject.toml instead of the ones below
#   --build-arg PYTHON=python:3.12-slim-bookworm@sha256:…   another base, or this one to the byte
#
# Versions of all packages stand in deploy/constraints.txt.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS requirements
ARG EXTRAS="s3 video dashboard fast"
COPY pyproject.toml deploy/constraints.txt ./
# By themselves, so that the layers of packages below are built again when they change, not whenever pyproject.toml does.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; x = p['optional-dependencies']; \
    print(*p['dependencies'], *(r for e in '$EXTRAS'.split() for r in x[e]), sep='\n')" > requirements.txt \
 && grep -E '^(torch|torchvision)==' constraints.txt > torch.txt

FROM ${PYTHON} AS packages
ENV PATH=/opt/venv/bin:$PATH
ARG TORCH_INDEX=cpu
COPY --from=requirements torch.txt /tmp/
# Byte code is made here: on a read-only root file system it would be made anew at every start.
RUN --mount=type=cache,target=/root/.cache \
    python -m venv /opt/venv \
 && case "$TORCH_INDEX" in \
      "") ;; \
      *://*) pip install --index-url "$TORCH_INDEX" -r /tmp/torch.txt ;; \
      *) python -m venv /tmp/uv && /tmp/uv/bin/pip install -q uv \
         && { /tmp/uv/bin/uv pip install --compile-bytecode --python /opt/venv/bin/python --torch-backend "$TORCH_INDEX" \
                -r /tmp/torch.txt \
              || echo "WARNING: torch's index for '$TORCH_INDEX' failed; taking the build of pip's own index, a larger one" >&2; } \
         && rm -r /tmp/uv ;; \
    esac \
 && pip install -r /tmp/torch.txt
COPY --from=requirements requirements.txt constraints.txt /tmp/
# What only building extensions or testing the packages themselves needs goes again.
RUN --mount=type=cache,target=/root/.cache \
    pip install -c /tmp/constraints.txt -r /tmp/requirements.txt setuptools \
 && cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && rm -rf torch/include torch/share torch/test nvidia/*/include nvidia/*/lib/*.a \
 && find numpy scipy sympy networkx -type d -name tests -prune -exec rm -rf {} + \
 # where torch's index failed: what is for GPUs alone, and not needed to load the rest
 && if [ "$TORCH_INDEX" = cpu ]; then rm -rf triton nvidia/cudnn/lib/libcudnn_*; fi \
 # our own code, a folder of its own: a change of it is a small layer
 && echo "/opt/layercache/lib/$(basename "$(dirname "$PWD")")/site-packages" > layercache.pth

FROM packages AS code
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY early_exit early_exit
COPY stream stream
COPY cache_training cache_training
COPY layercache layercache
RUN pip install --no-deps --no-build-isolation --prefix /opt/layercache .

FROM ${PYTHON}
ENV PATH=/opt/layercache/bin:/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The one user that anything here runs as. What it may write to are volumes, so that the root file system can be read-only.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin layercache \
 && install -d -o layercache -g layercache /heads /state /home/layercache/.cache
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /opt/layercache /opt/layercache
WORKDIR /app
COPY examples examples
# By number: Kubernetes' runAsNonRoot can tell it from root's.
USER 10001:10001
ENTRYPOINT ["layercache"]
CMD ["--help"]
