"""Flags and places: commands and flags that there are not, values of another kind, prompts, outputs in the way."""

from __future__ import annotations

from pathlib import Path

from malformed import case

_EDIT = "invert3d edit words.safetensors --prior prior --steps 2 --out case/out.png"
_VIEWS = "invert3d views words.safetensors --prior prior --steps 2 --count 1 --out case/out"


def _file_in_the_way(folder: Path) -> None:
    (folder / "out").write_text("mine")


def _folder_in_the_way(folder: Path) -> None:
    (folder / "out.png").mkdir()
    (folder / "out.ply").mkdir()
    (folder / "edits.json").mkdir()


def _full_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")


def _prompt(name: str, prompt: str, says: str = "", **more):
    return case(f"prompt {name}", [*_EDIT.split(), "--prompt", prompt], says, **more)


_UNKNOWN = [
    ("no command", "invert3d", "Missing|Required|subcommand|views"),
    ("unknown command", "invert3d paint run", "paint"),
    ("another case", "invert3d Views run", "Views"),
    ("no operand", "invert3d views", "PATH"),
    ("two operands", "invert3d export run run", "run"),
    ("unknown flag", "invert3d views run --colour red", "--colour"),
    ("flag of another command", "invert3d views run --target blue", "--target"),
    ("flag without value", "invert3d views run --steps", "--steps"),
    ("word for a number", "invert3d views run --steps many", "--steps"),
    ("fraction for a whole number", "invert3d views run --steps 2.5", "--steps"),
    ("nan for a whole number", "invert3d views run --seed nan", "--seed"),
    ("unknown choice", "invert3d views run --sampler euler", "--sampler"),
    ("unknown space", "invert3d edit run --space prompt-space", "--space"),
    ("unknown up", "invert3d export run --up up", "--up"),
    ("box of three", "invert3d edit run --prompt blue --box 0 0 0", "--box"),
    ("comma in numbers", "invert3d views run --azimuths 0,90", "--azimuths"),
    ("boolean of another kind", "invert3d edit run --keep-silhouette maybe", "maybe"),
    ("report without out", "invert3d evaluate clip", "--out"),
    ("unknown evaluation", "invert3d evaluate everything --out case/out", "everything"),
    ("unknown bench", "invert3d bench speed --out case/out", "speed"),
    ("unknown stage", "invert3d train prior --stage last", "--stage"),
    ("unquoted prompt", "invert3d edit run --prompt in van gogh style", 'write --prompt "in van gogh style"'),
    ("unquoted noun", "invert3d edit run --prompt blue --noun red car", 'write --noun "red car"'),
    ("unquoted prompt train", "ns-train invert3d-edit --data run --prompt in sepia", 'write --prompt "in sepia"'),
    ("unknown flag train", "ns-train invert3d --pipeline.stepz 3", "--pipeline.stepz"),
    ("word for a number train", "ns-train invert3d --pipeline.steps many", "--pipeline.steps"),
]

CASES = [
    *(case(name, line, says, status=2) for name, line, says in _UNKNOWN),
    # What is to be changed
    case("edit of nothing", _EDIT, "give --prompt|edit is empty"),
    _prompt("empty", "", "the prompt is empty"),
    _prompt("blank", " \t\n", "the prompt is empty"),
    _prompt("only the object", "<object>", "changes nothing|edit is empty"),
    _prompt("unknown placeholder", "a photo of <cat-toy>", "<cat-toy>"),
    _prompt("too long", "<object> " + "red " * 90, "would be cut"),
    _prompt("very long", "red " * 20_000, "would be cut"),
    _prompt("of two lines", "a red\ncube", status=0, writes=("case/out.png",)),
    _prompt("in other letters", "在海边的 <object> ☂", "vocabulary cannot write '在海边的'"),
    _prompt("like a flag", "a [bold]red[/bold] {cube} %s", status=0, writes=("case/out.png",)),
    case("only an amount", f"{_EDIT} --amount 2", "edit is empty"),
    case(
        "amount of 0",
        f"{_EDIT} --prompt blue --amount 0 --target red --source blue",
        status=0,
        writes=("case/out.png",),
    ),
    case("terms with amount 0", f"{_EDIT} --target red --amount 0", "changes nothing"),
    case("weight of an absent word", f"{_EDIT} --prompt blue --weight dali=2", "'dali' has a weight"),
    case("weight without number", f"{_EDIT} --prompt blue --weight blue", "cannot be read"),
    case("weight of nan", f"{_EDIT} --prompt blue --weight blue=nan", "weight of 'blue' is nan"),
    case("region without scene", f"{_EDIT} --prompt blue --relevance top", "give --scene"),
    case("box without scene", f"{_EDIT} --prompt blue --box 0 0 0 1 1 1", "give --scene"),
    case("box inside out", f"{_EDIT} --prompt blue --box 1 0 0 0 1 1", "xmin 1 is not below xmax 0"),
    case("box of nan", f"{_EDIT} --prompt blue --box nan 0 0 1 1 1", "nan|finite"),
    case("box far away", "invert3d edit run --prompt blue --out case/out.png --box 5 5 5 6 6 6", "holds no splats"),
    case("threshold without words", f"{_EDIT} --prompt blue --relevance-threshold 0.3", "give --relevance"),
    case("box-holds without box", f"{_EDIT} --prompt blue --box-holds part", "there is no box"),
    case("no azimuths", "invert3d views words.safetensors --azimuths --out case/out", "no azimuths are given"),
    case("views of a bare prompt", [*_VIEWS.split(), "--prompt", "a red cube"], "put <object> where it belongs"),
    case("views of another placeholder", [*_VIEWS.split(), "--prompt", "a <cat-toy>"], "<cat-toy>"),
    case("views that are right", _VIEWS, status=0, writes=("case/out/views.png", "case/out/views.mp4")),
    case("booleans in words", f"{_EDIT} --prompt blue --keep-silhouette False", status=0, writes=("case/out.png",)),
    # Where it goes
    case("out is a file", _VIEWS, "out is a file", _file_in_the_way),
    case("out is below a file", f"{_VIEWS}/deeper", "out is a file", _file_in_the_way),
    case("out is a folder", f"{_EDIT} --prompt blue", "out.png is a folder", _folder_in_the_way),
    case("export out is a folder", "invert3d export ball.ply --out case/out.ply", "is a folder", _folder_in_the_way),
    case("edits is a folder", f"{_EDIT} --prompt blue --save-edits case/edits.json", "is a folder", _folder_in_the_way),
    case("edits of another ending", f"{_EDIT} --prompt blue --save-edits case/edits.txt", r"does not end in \.json"),
    case("out of another ending", "invert3d edit words.safetensors --prompt blue --out case/a.gif", r"end in \.png"),
    case("report is a file", "invert3d evaluate clip --out case/out", "out is a file", _file_in_the_way),
    case("bench is a file", "invert3d bench startup --out case/out", "out is a file", _file_in_the_way),
    case("image out is a file", "invert3d image photo.png --out case/out", "out is a file", _file_in_the_way),
    case(
        "images into a full folder", "invert3d export ball.ply --posed-images case/out", "exists already", _full_folder
    ),
    case("a name that is too long", f"invert3d views words.safetensors --out case/{'x' * 300}", "cannot be written"),
    # Other commands
    case("export of nothing", "invert3d export ball.ply", "nothing to write"),
    case("export to another format", "invert3d export ball.ply --out case/a.obj", r"\.obj"),
    case("mesh of another format", "invert3d export ball.ply --mesh case/a.stl", r"end in \.glb, \.obj or \.ply"),
    case("mesh of too few triangles", "invert3d export ball.ply --mesh case/a.glb --faces 3", "--faces is 3"),
    case("check of nothing", "invert3d prior check", "nothing to check"),
    case("fetch of an unknown name", "invert3d prior fetch midas", "midas"),
    case("convert of an unknown name", "invert3d prior convert midas case/out", "midas"),
    case("convert into a full folder", "invert3d prior convert prior case/out", "choose another folder", _full_folder),
    case("convert in odd shards", "invert3d prior convert prior case/out --shard-size 2", "--shard-size is '2'"),
    case("a hash that is none", "invert3d prior fetch bundled --sha256 xyz", "xyz|sha256|single file"),
    case("unknown prior", f"{_VIEWS} --prior midas", "midas"),
    case("prior that is a file", f"{_VIEWS} --prior notes.txt", "notes.txt"),
    case("prior that is a folder", f"{_VIEWS} --prior run", "run"),
    case("evaluation of an unknown object", "invert3d evaluate edit --objects duck_red --out case/out", "duck_red"),
    case("evaluation of an unknown edit", "invert3d evaluate edit --edits mauve --out case/out", "mauve"),
    case("evaluation in an unknown way", "invert3d evaluate edit --methods magic --out case/out", "magic"),
    case("evaluation without methods", "invert3d evaluate edit --methods --out case/out", "--methods is empty"),
    case("evaluation without seeds", "invert3d evaluate clip --seeds --out case/out", "--seeds is empty"),
    case("training on an unknown device", "invert3d train clip --device tpu9 --out case/out", "--device is 'tpu9'"),
    case("training without objects", "invert3d train prior --objects 0 --out case/out", "--objects is 0"),
    case("training at no rate", "invert3d train prior --denoiser-lr nan --out case/out", "--denoiser-lr is nan"),
    case("training from nowhere", "invert3d train judge --start nowhere --out case/out", "--start nowhere"),
    case(
        "compile with offload", f"{_VIEWS} --prior-options.compile --prior-options.offload model", "leave one of them"
    ),
    case(
        "bench of unknown options", "invert3d bench prior --size tiny --device cpu --options x --out case/out", "'x'|x"
    ),
]
