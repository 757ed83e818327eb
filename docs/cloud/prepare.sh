#!/usr/bin/env bash
# Download the pretrained model, CLIP and one dataset of GranD_f, and convert them. Run it in a
# checkout; 60 GB of disk, no accelerator. It can be repeated: finished downloads are skipped.
set -euo pipefail

hf download MBZUAI/GLaMM-GranD-Pretrained --local-dir GLaMM-GranD-Pretrained
hf download openai/clip-vit-large-patch14-336 --local-dir clip-vit-large-patch14-336
hf download MBZUAI/GranD-f --repo-type dataset --local-dir data/GranDf/annotations
mkdir -p data/GranDf/annotations/train data/coco_2017
find data/GranDf/annotations -maxdepth 1 -name '*_GCG_train.json' \
  -exec mv -t data/GranDf/annotations/train {} +
if [ ! -d data/coco_2017/train2017 ]; then
  wget --continue http://images.cocodataset.org/zips/train2017.zip
  unzip -q train2017.zip -d data/coco_2017
fi

[ -d start ] ||
glamm-jax convert from-torch GLaMM-GranD-Pretrained --clip clip-vit-large-patch14-336 --out start
glamm-jax convert dataset grandf_psg --source data --out shards --split train
