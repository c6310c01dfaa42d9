# One image for every service of ours: API, workers, migration, lab, and the Temporal server from the same lock file.
# The stage `test` is an image of its own, for the tests.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
# The lock without its hashes serves as constraints: the versions that are tested, and none of the development tools.
RUN sed -E 's/ *\\$//; /^ *--hash/d' requirements.lock > constraints.txt
COPY sql ./sql
COPY trellis ./trellis
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

# For the service `test`: the development tools of the lock file, and what the tests read. Nothing else is built on it.
FROM build AS test
RUN /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
RUN useradd --create-home --uid 10001 trellis && chown trellis:trellis /src
COPY Dockerfile Makefile docker-compose.yml .dockerignore .env.sample CHANGELOG.md CONTRIBUTING.md ./
COPY docs ./docs
COPY notebooks ./notebooks
COPY tests ./tests
# The sources before the installed package, in every process that a test starts.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER trellis
CMD ["python", "-m", "pytest", "--help"]

FROM python:3.12.11-slim-bookworm
RUN useradd --create-home --uid 10001 trellis && mkdir /data && chown trellis:trellis /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER trellis
WORKDIR /home/trellis
COPY --chown=trellis notebooks ./notebooks
CMD ["trellis", "--help"]
