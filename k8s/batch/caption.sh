#!/usr/bin/env bash
# Captions every image below /images into /output/NNNNN.jsonl, one JSON object a line. What is there already is not
# done again, so a job that is tried again goes on where it stopped. For other images, empty /output first.
set -euo pipefail
list=/output/images.txt
if ! [ -e "$list" ]; then
  find /images -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' -o -iname '*.gif' \
    -o -iname '*.bmp' -o -iname '*.tif' -o -iname '*.tiff' -o -iname '*.avif' \) | sort > "$list.part"
  mv "$list.part" "$list"
fi
mapfile -t files < "$list"
for ((first = 0; first < ${#files[@]}; first += PART)); do
  part=$(printf '/output/%05d.jsonl' $((first / PART)))
  [ -e "$part" ] && continue
  status=0
  caption-serve caption --json --model "$MODEL" --detail "$DETAIL" -- "${files[@]:first:PART}" > "$part.part" || status=$?
  # 1: some images are no good, and their lines say so; trying again would not help. Anything else is a failure.
  [ "$status" -le 1 ] || exit "$status"
  mv "$part.part" "$part"
done
