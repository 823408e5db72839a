#!/bin/sh
# Makes the data of this folder anew: sh tests/data/before/make.sh, in the root of a checkout of the
# commit that README.md names. PYTHON is the environment's Python. Takes about ten minutes.
set -eu

ROOT=$PWD
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
HERE=$ROOT/tests/data/before
WORK=$(mktemp -d)
export PYTHONPATH="$ROOT" TF_AVAE_CACHE="$WORK/cache" TF_CPP_MIN_LOG_LEVEL=2
cd "$WORK"

# ---------------------------------------------------------------- pictures
# Three folders are three classes: a gradient of a colour, and noise.
$PYTHON - <<'END'
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
ramp = np.linspace(0, 1, 8)[:, None, None] * np.ones((8, 8, 1))
for split, count in (("train", 10), ("test", 15)):
    for number, name in enumerate(("blue", "green", "red")):
        folder = Path("pictures", split, name)
        folder.mkdir(parents=True)
        colour = np.full(3, 0.3)
        colour[2 - number] = 0.6
        for n in range(count):
            grey = ramp if n % 2 else ramp[::-1]
            image = np.clip(0.7 * grey * colour + 0.3 * rng.uniform(size=(8, 8, 3)), 0, 1)
            Image.fromarray(np.round(255 * image).astype(np.uint8)).save(folder / f"{n}.png")
END

# -------------------------------------------------------------------- runs
fit() {
    algo=$1
    shift
    $PYTHON -m training.fit --algo "$algo" --arch linear --dataset image_folder \
        --data-dir pictures --image-size 8 --latent-dim 4 --obs-var 0.05 --batch-size 10 \
        --learning-rate 0.02 --log-every 1 --checkpoint-every 20 --eval-every 20 \
        --pictures-every 40 --keep-checkpoints 2 --run-dir "runs/$algo" "$@"
}
fit avae --steps 40
fit avae_ss --pretrain-steps 40 --steps 20

# ----------------------------------------------- results, exports, classifiers

SMALL="--budget smoke --epsilon 0.1 --images 45 --free-images 45"
$PYTHON -m training.evaluate runs/avae runs/avae_ss $SMALL --out evaluation
$PYTHON -m benchmarks.tables evaluation/results.json > evaluation/table.md
$PYTHON -m benchmarks.detection --from evaluation/results.json > evaluation/detection.md
$PYTHON -m serving.export runs/avae --to models/encoder --batch-sizes 1 4 \
    --evaluation evaluation/results.json
$PYTHON -m training.classify --encoder runs/avae --task folder $SMALL \
    --out classifier --to models/classifier

# ------------------------------------------------------ what clients hold
cat > models.txt <<END
model_config_list {
  config { name: "encoder" base_path: "$WORK/models/encoder" model_platform: "tensorflow" }
  config { name: "classifier" base_path: "$WORK/models/classifier" model_platform: "tensorflow" }
}
END
$PYTHON -m serving.server --model_config_file=models.txt --port=18500 --rest_api_port=18501 &
SERVER=$!
trap 'kill $SERVER' EXIT
mkdir clients
ASKED="{\"instances\": [$($PYTHON -c 'print([[[0.25, 0.5, 0.75]] * 8] * 8)')]}"
for model in encoder classifier; do
    $PYTHON -m serving.client status --address localhost:18500 --model $model --wait 60
    $PYTHON -m serving.client embed pictures/test/* --address localhost:18500 --model $model \
        --out clients/$model.npz
    curl -sS "http://localhost:18501/v1/models/$model:predict" -d "$ASKED" \
        > "clients/$model-predict.json"
done
kill $SERVER
trap - EXIT
$PYTHON -m serving.bulk --model models/encoder --input 'pictures/test/**' --output bulk --shards 1

# ----------------------------------- Keras files: all objectives and networks
# The larger networks have weights that are mostly 0, so that their files are small.
mkdir keras
$PYTHON - <<'END'
import zipfile
from pathlib import Path

import tf_avae  # isort: split
import keras
import numpy as np

from tf_avae.optimizers import FusedAdam

def thin(model, rng):
    """One number, not 0, for each row of a kernel's last axis; few different numbers."""
    for weight in model.weights:
        shape, kind = weight.shape, weight.path.split("/")[-1]
        if kind == "kernel":
            value = np.zeros((int(np.prod(shape[:-1])), shape[-1]), np.float32)
            places = rng.integers(len(value), size=shape[-1])
            value[places, np.arange(shape[-1])] = rng.choice([1.5, 1, -0.5], shape[-1])
            value = value.reshape(shape)
        else:
            few = {"moving_variance": [1, 2], "gamma": [1, 0.5]}.get(kind, [0, 0.25, -0.125])
            value = rng.choice(few, shape)
        weight.assign(value)

def keep(model, name):
    model.save("large.keras")
    with (
        zipfile.ZipFile("large.keras") as large,
        zipfile.ZipFile(f"keras/{name}.keras", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small,
    ):
        for member in large.namelist():
            small.writestr(member, large.read(member))
    Path("large.keras").unlink()

for algo, arch, side, dtype in (
    ("vae", "mlp", 8, "float32"),
    ("se", "conv", 10, "float32"),
    ("se_avae", "conv", 12, "mixed_bfloat16"),
):
    model = tf_avae.AVAE(
        objective=algo, architecture=arch, image_shape=(side, side, 3), latent_dim=3,
        pgd_steps=2, dtype=dtype,
    )
    rng = np.random.default_rng(1)
    thin(model.encoder, rng)
    thin(model.decoder, rng)
    keep(model, f"{algo}-{arch}")

# With its optimizer, as a user saves it who goes on training.
keras.utils.set_random_seed(0)
model = tf_avae.AVAE(
    objective="se_avae", architecture="linear", image_shape=(8, 8, 3), latent_dim=3, pgd_steps=2
)
model.compile(optimizer=FusedAdam(0.01))
model.fit(np.random.default_rng(2).uniform(size=(32, 8, 8, 3)).astype("float32"), verbose=0)
model.save("keras/compiled.keras")
END

# ------------------------------------------------------------------ numbers
$PYTHON - <<'END'
import pickle

import tf_avae  # isort: split
import keras
import numpy as np
import tensorflow as tf

from serving.transformer import RobustEmbedding

rng = np.random.default_rng(3)
found = {f"images-{n}": rng.uniform(size=(5, n, n, 3)).astype("float32") for n in (8, 10, 12)}
images = found["images-8"]

def add(name, outputs):
    found.update({f"{name}:{key}": np.asarray(value) for key, value in outputs.items()})

for path in ("runs/avae", "runs/avae_ss", "models/encoder", "models/classifier"):
    add(path, tf_avae.load_encoder(path)(images))
for path in ("runs/avae/encoder", "runs/avae_ss/encoder", "runs/avae/model", "runs/avae_ss/model",
             "runs/avae_ss/vae", "classifier/classifier", "keras/vae-mlp", "keras/se-conv",
             "keras/se_avae-conv", "keras/compiled"):  # fmt: skip
    model = keras.saving.load_model(f"{path}.keras")
    whole = isinstance(model, tf_avae.AVAE)
    side = (model.image_shape if whole else model.input_shape)[-2]
    add(f"{path}.keras", model.predict(found[f"images-{side}"], verbose=0))
    if whole:
        codes = found[f"{path}.keras:embedding"]
        add(f"{path}.keras", {"decoded": model.decode(codes)})
loaded = tf.saved_model.load("models/encoder/1")
latent = tf.constant(found["models/encoder:embedding"])
add("models/encoder", {"decoded": loaded.signatures["decode"](latent=latent)["image"]})
model = keras.saving.load_model("keras/compiled.keras")
add("keras/compiled.keras evaluated", model.evaluate(images, return_dict=True, verbose=0))
model.train_on_batch(images)
add("keras/compiled.keras one step on", model.predict(images, verbose=0))
np.savez_compressed("numbers.npz", **found)
with open("keras/transformer.pkl", "wb") as file:
    pickle.dump(RobustEmbedding("models/encoder"), file)
END

# ------------------------------------------------------------------- sweeps
$PYTHON -m training.sweep colormnist --algo vae se --arch linear --latent-dim 2 --steps 2 \
    --seeds 1 --budget smoke --radii 0.1 --images 10 --out sweeps/colormnist
$PYTHON -m training.sweep precision --algo vae --arch linear --latent-dim 2 --steps 2 \
    --seeds 2 --budget smoke --radii 0.1 --images 10 --out sweeps/precision
# Another of the same models, which has measured nothing itself.
mkdir -p sweeps/known/known
cp sweeps/colormnist/sweep.json sweeps/known
cp sweeps/colormnist/colormnist.json sweeps/known/known
$PYTHON -m training.sweep colormnist --out sweeps/known --table > sweeps/known/table.md
for sweep in colormnist precision; do
    $PYTHON -m training.sweep $sweep --out sweeps/$sweep --table > sweeps/$sweep/table.md
done

# --------------------------------------- what is kept, without where it was made
find . \( -name .lock -o -name lock -o -name log -o -name report.html -o -name '*.svg' \) -delete
find . \( -name parts -o -name tensorboard -o -path './runs/*/pictures' \) \
    -prune -exec rm -r {} +
find sweeps \( -name '*.ckpt' -o -name '*.keras' -o -name '*.png' \) -delete
rm sweeps/colormnist/colormnist.* sweeps/precision/precision.*
find . -type d -empty -delete
grep -rlI -e "$WORK" -e "$PYTHON" . | xargs sed -i -e "s#$WORK/##g" -e "s#$PYTHON#python#g"
$PYTHON - <<'END'
import json
from pathlib import Path

import pyarrow.parquet as pq

(part,) = Path("bulk/embeddings").iterdir()
table = pq.read_table(part)
model = json.loads(table.schema.metadata[b"tf_avae"])
model["path"] = "models/encoder/1"
table = table.replace_schema_metadata({"tf_avae": json.dumps(model)})
pq.write_table(table, part, compression="zstd")
END
tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    pictures runs evaluation models classifier clients bulk keras sweeps | xz -9e > kept.tar.xz
cp kept.tar.xz numbers.npz "$HERE"
rm -rf "$WORK"
