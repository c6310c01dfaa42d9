# One image for every service of Trellis: API, workers, migration, lab, and the Temporal server from the same lock file.
# The stage `test` makes a second image, for the tests.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
# The lock file without its hashes serves as constraints: it gives the tested versions and installs no development
# tools.
RUN sed -E 's/ *\\$//; /^ *--hash/d' requirements.lock > constraints.txt
COPY sql ./sql
COPY trellis ./trellis
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

# For the service `test`: the development tools of the lock file, and the files that the tests read. No other stage uses
# it.
FROM build AS test
RUN /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
RUN useradd --create-home --uid 10001 trellis && chown trellis:trellis /src
COPY Dockerfile Makefile docker-compose.yml .dockerignore .env.sample CHANGELOG.md CONTRIBUTING.md ./
COPY docs ./docs
COPY notebooks ./notebooks
COPY tests ./tests
# Every process that a test starts must use these sources and not the installed package.
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
