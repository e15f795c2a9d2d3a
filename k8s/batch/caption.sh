#!/usr/bin/env bash
# Captions every image below /images into /output/part-NNNNN.parquet. A job that is tried again goes on where it
# stopped; for other images or options, empty /output first.
set -euo pipefail
status=0
options=(--model "$MODEL" --matcher "$MATCHER" --detail "$DETAIL" --shard-size "$SHARD")
python -m serve_app.batch /images --out /output "${options[@]}" || status=$?
# 1: some images are no good, and their rows say so; trying again would not help. Anything else is a failure.
[ "$status" -le 1 ] || exit "$status"
