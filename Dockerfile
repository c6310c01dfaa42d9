# One image for every service of ours: API, workers, migration, lab, and the Temporal server from the same lock file.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
# The lock without its hashes serves as constraints: the versions that are tested, and none of the development tools.
RUN sed -E 's/ *\\$//; /^ *--hash/d' requirements.lock > constraints.txt
COPY sql ./sql
COPY trellis ./trellis
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.12.11-slim-bookworm
RUN useradd --create-home --uid 10001 trellis && mkdir /data && chown trellis:trellis /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER trellis
WORKDIR /home/trellis
COPY --chown=trellis notebooks ./notebooks
CMD ["trellis", "--help"]
