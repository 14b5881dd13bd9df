# The suite for a cluster: docker build --tag dora-glue .
# With Apptainer: docker save dora-glue -o dora-glue.tar && apptainer build dora-glue.sif docker-archive:dora-glue.tar
#
# The Python that the pinned requirements are tested with. `torch` is the build for CUDA, which brings its
# libraries; the machine needs the driver alone.
FROM python:3.11.7-slim-bookworm

RUN useradd --create-home --uid 1000 dora
COPY requirements.txt /suite/
RUN pip install --no-cache-dir --requirement /suite/requirements.txt
COPY pyproject.toml README.md LICENSE /suite/
COPY conf /suite/conf
COPY dora /suite/dora
RUN pip install --no-cache-dir --no-deps /suite && rm -r /suite

# Results are written below the folder where one stands: mount yours here.
WORKDIR /work
RUN chown dora /work
USER dora
ENTRYPOINT ["dora-glue"]
CMD ["--help"]
