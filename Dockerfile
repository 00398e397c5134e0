# Build:  docker build -t molehill .        (or: buildah build --format docker -t molehill .)
# Run:    docker run -d --name molehill --network host --cap-add NET_ADMIN --cap-add NET_RAW \
#           -v /etc/molehill:/etc/molehill:ro -v molehill:/var/lib/molehill molehill
# It works on the host's interfaces, hence the host's network and the two capabilities; nothing else of the host is
# needed. /etc/molehill/secret must be readable by group 748, which is molehill's in here.

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
# With --copies the environment has an interpreter of its own, which alone gets the capabilities below.
RUN python3 -m venv --copies /opt/molehill
WORKDIR /source
COPY requirements.lock .
RUN /opt/molehill/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY . .
RUN /opt/molehill/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/molehill/bin/pip uninstall -y -qq pip

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libcap2-bin nftables python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 748 molehill \
 && useradd --system --uid 748 --gid molehill --no-create-home --home-dir /var/lib/molehill molehill \
 && install -d -o molehill -g molehill -m 0750 /run/molehill /var/lib/molehill
COPY --from=build /opt/molehill /opt/molehill
# Docker gives capabilities that it adds to root only; the file's own make the agent need no root. Set here, not in
# the first stage: not every builder keeps them when it copies.
RUN setcap cap_net_admin,cap_net_raw+ep "$(readlink -f /opt/molehill/bin/python3)" && getcap -r /opt/molehill
ENV PATH=/opt/molehill/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MOLEHILL_HEALTH=http://127.0.0.1:9748/-/healthy
USER molehill
VOLUME /var/lib/molehill
EXPOSE 9748/tcp 4803/udp
# Asked with the system's interpreter, which has no capabilities. Where http.listen is not :9748, set MOLEHILL_HEALTH.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["/usr/bin/python3", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['MOLEHILL_HEALTH'], timeout=2)"]
ENTRYPOINT ["molehill"]
CMD ["run"]
