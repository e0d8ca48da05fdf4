"""The final judgement: held-out photos and wordings through comfyd itself, over its HTTP API."""

import json
import random
import socket
import subprocess
import time
import urllib.request

import numpy as np
import zstandard
from PIL import Image

from . import edits, judge, paths, phrases
from .export import FILES
from .pictures import HELD_OUT, floats, load
from .scenes import Scene

GRAPH = paths.MODELS.parent.parent / "workflows/edit_photo.json"
SIZES = ((96, 96), (128, 192), (256, 160), (240, 320), (384, 256), (512, 384))
COLOURS = ("red", "green", "blue")
# For what takes minutes a picture.
SLOW = (("grey", ()), ("invert", ()), ("darker", ()), ("tint", ("blue",)))


class Studio:
    """A running comfyd whose models are the exported files."""

    def __init__(self, binary, folder):
        self.folder = folder
        for kind, name in FILES.items():
            packed = (paths.MODELS / kind / f"{name}.safetensors.zst").read_bytes()
            target = folder / "models" / kind / f"{name}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(zstandard.ZstdDecompressor().stream_reader(packed).read())
        (folder / "input").mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = subprocess.Popen(
            [binary, "serve", "--port", str(self.port), "--base-directory", str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_until_up()

    def wait_until_up(self):
        for _ in range(600):
            try:
                return self.get("/health")
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("comfyd did not start")

    def get(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=900).read()

    def put_photo(self, name, picture):
        picture.save(self.folder / "input" / name)

    def run(self, graph):
        """-> ({node: pictures}, seconds)"""
        started = time.time()
        body = json.dumps({"prompt": graph}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/prompt", body, headers)
        job = json.load(urllib.request.urlopen(request))["prompt_id"]
        while not (entry := json.loads(self.get(f"/history/{job}")).get(job)):
            time.sleep(0.02)
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(json.dumps(entry["status"]))
        found = {}
        for node, output in entry["outputs"].items():
            made = output["images"][0]
            where = f"/view?filename={made['filename']}&subfolder={made['subfolder']}&type={made['type']}"
            (self.folder / "last.png").write_bytes(self.get(where))
            found[node] = Image.open(self.folder / "last.png").convert("RGB")
        return found, time.time() - started

    def stop(self):
        self.server.terminate()
        self.server.wait()


def official(photo, prompt, steps, cfg, seed):
    """The shipped graph: photo and reference at 1 MP. Node 61 shows the photo as the sampler got it."""
    graph = json.loads(GRAPH.read_text())
    graph["78"]["inputs"]["image"] = photo
    graph["111"]["inputs"]["prompt"] = prompt
    graph["3"]["inputs"] |= dict(steps=steps, cfg=cfg, seed=seed)
    graph["61"] = {"class_type": "SaveImage", "inputs": {"images": ["93", 0], "filename_prefix": "before"}}
    return graph


def small(photo, prompt, steps, cfg, seed):
    """The same at the photo's own size: the reference is the latent of the photo."""
    graph = official(photo, prompt, steps, cfg, seed)
    del graph["93"]
    for node, follower, name in (("111", "112", "positive"), ("110", "113", "negative")):
        del graph[node]["inputs"]["vae"]
        graph[node]["inputs"]["image1"] = ["78", 0]
        graph[follower] = {"class_type": "ReferenceLatent",
                           "inputs": {"conditioning": [node, 0], "latent": ["88", 0]}}
        graph["3"]["inputs"][name] = [follower, 0]
    for node, field in (("88", "pixels"), ("61", "images")):
        graph[node]["inputs"][field] = ["78", 0]
    return graph


def families():
    for family in edits.GLOBAL:
        yield family, ()
    for colour in COLOURS:
        yield "tint", (colour,)


def wording(rng, family, words):
    """Half from the hand-written list, half from the share of the grammar kept back."""
    if rng.random() < 0.5:
        return rng.choice(phrases.STRANGERS[family]).format(*words)
    return phrases.say(rng, family, words, held_out=True)


def photo_of(rng, size):
    """A held-out photo, cut to the shape of `size` around its middle or somewhere else."""
    photo = load(rng.choice(HELD_OUT))
    width, height = size if rng.random() < 0.5 else size[::-1]
    scale = max(width / photo.width, height / photo.height) * rng.uniform(1, 1.6)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.LANCZOS)
    x, y = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    return photo.crop((x, y, x + width, y + height))


def same_size(before, after):
    """The encoder cuts to multiples of 8 around the middle."""
    y, x = (before.shape[0] - after.shape[0]) // 2, (before.shape[1] - after.shape[1]) // 2
    return before[y:y + after.shape[0], x:x + after.shape[1]]


def photos(studio, make, sizes, each, steps, cfg, only=None):
    rng, rows, seconds = random.Random(1), {}, []
    for family, words in only or families():
        for i in range(each):
            studio.put_photo("photo.png", photo_of(rng, sizes[i % len(sizes)]))
            prompt = wording(rng, family, words)
            made, took = studio.run(make("photo.png", prompt, steps, cfg, rng.randrange(1 << 32)))
            before, after = floats(made["61"]), floats(made["60"])
            passed, figures = judge.judge(family, words, same_size(before, after), after)
            rows.setdefault(" ".join((family, *words)), []).append(dict(passed=passed, prompt=prompt, **figures))
            seconds.append(took)
    return rows, float(np.median(seconds))


def scenes(studio, count, size, steps, cfg):
    rng, rows = random.Random(42), {}
    for _ in range(count):
        scene = Scene(rng)
        family, words, other = scene.edit(rng)
        prompt = wording(rng, family, words)
        studio.put_photo("photo.png", scene.draw(size))
        made, _ = studio.run(small("photo.png", prompt, steps, cfg, rng.randrange(1 << 32)))
        passed, figures = judge.judge_scene(family, words, scene, other, floats(made["60"]), size)
        rows.setdefault(f"{family} (scenes)", []).append(dict(passed=passed, prompt=prompt, **figures))
    return rows


def table(rows):
    lines = []
    for name, results in rows.items():
        mean = {key: np.mean([r[key] for r in results]) for key in results[0] if key not in ("passed", "prompt")}
        figures = ", ".join(f"{key} {value:.2f}" if value < 3 else f"{key} {value:.1f}" for key, value in mean.items())
        lines.append(f"| {name} | {sum(r['passed'] for r in results)} of {len(results)} | {figures} |")
    return "\n".join(["| family | passed | means |", "|---|---|---|", *lines])


PLANS = {
    "small, 4 steps, cfg 1": lambda s, n: photos(s, small, SIZES, n, 4, 1.0),
    "small, 20 steps, cfg 2.5": lambda s, n: photos(s, small, SIZES[:3], max(1, n // 2), 20, 2.5),
    "small, 20 steps, cfg 4": lambda s, n: photos(s, small, SIZES[:3], max(1, n // 2), 20, 4.0),
    "scenes, 4 steps, cfg 1": lambda s, n: (scenes(s, 8 * n, 96, 4, 1.0), 0.0),
    "official graph at 1 MP, 4 steps, cfg 1": lambda s, n: photos(s, official, ((512, 384),), 1, 4, 1.0, SLOW),
    "official graph at 1 MP, 20 steps, cfg 2.5": lambda s, n: photos(s, official, ((512, 384),), 1, 20, 2.5, SLOW[:1]),
}


def evaluate(binary, each, only=""):
    folder = paths.WORK / f"evaluation-{only or 'all'}".replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    studio, report = Studio(binary, folder), {}
    try:
        for name, plan in PLANS.items():
            if name.startswith(only):
                rows, seconds = plan(studio, each)
                passed = [r["passed"] for results in rows.values() for r in results]
                print(f"\n### {name}: {sum(passed)} of {len(passed)}, {seconds:.1f} s each\n\n{table(rows)}", flush=True)
                report[name] = rows
    finally:
        studio.stop()
        (folder / "report.json").write_text(json.dumps(report, indent=1, default=float))
