"""Words that are wrong: flags, keys, values of every kind of key, choices, interpolations."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.hostile.replay import Case
from scripts.hostile.world import DESCENT, RUN, SCORE, Words, World

KIND = "command_line"

#: Values that no key of the kind may have, each refused by naming the key.
NO_NUMBER: Words = (
    "a",
    "[1]",
    "{a:1}",
    "null",
    "true",
    "''",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "1.5",
    "2**3",
    "\u00b2",
    "0x",
)
NO_CHOICE: Words = ("5", "[a]", "{a:1}", "no_such_thing", "''", "1.5", "'a b'", "../x", "\u00e9")
NO_TRUTH: Words = ("2", "maybe", "[true]", "{a:1}", "1.5", "null", "''")
NO_FOLDER: Words = ("null", "''", "~no_such_user_here/x", "/dev/null", "/proc/x", "a" * 5000)

NUMBERS: Words = (
    "seed",
    "image_size",
    "trainer.epochs",
    "trainer.max_steps",
    "trainer.accumulate",
    "trainer.test_batch_size",
    "trainer.workers",
    "dataset.cache_above",
    "method.batch_size",
)
CHOICES: Words = (
    "method",
    "dataset",
    "setting",
    "trainer",
    "metric",
    "recipe",
    "trainer.device",
    "trainer.precision",
    "dataset.cache",
    "metric.size",
    "metric.map_interpolation",
    "metric.mask_interpolation",
    "metric.mask_rule",
    "experiment",
)
TRUTHS: Words = (
    "save_maps",
    "force",
    "trainer.sync_batchnorm",
    "trainer.compile",
    "trainer.channels_last",
    "metric.by_defect",
    "dataset.check_counts",
)
FOLDERS: Words = ("paths.results", "paths.cache", "dataset.root")

#: (key, values) of single methods, with the method's run.
OF_PATCHCORE: tuple[tuple[str, Words], ...] = (
    ("method.coreset", ("0", "-1", "2", "nan", "inf", "a", "[0.1]", "null")),
    ("method.sigma", ("-1", "nan", "inf", "1e9", "a", "null")),
    ("method.layers", ("[2,2]", "[]", "[0]", "[9]", "5", "[a]", "[[1]]", "null", "[1.5]", "[-1]")),
    ("method.num_neighbors", ("0", "-1", "1.5", "1e9", "a", "null")),
    ("method.projection_dim", ("0", "-1", "10000000000", "a")),
    ("method.embed_dim", ("0", "-1", "10000000000", "a")),
    ("method.image_score", ("5", "mean", "null", "[map]")),
    ("method.backbone.name", ("no_such_net", "5", "null", "[a]", "vit_small_patch16_224.augreg_in21k", "''", "../x")),
    ("method.backbone.pretrained", ("5", "maybe", "[a]")),
)
OF_RD: tuple[tuple[str, Words], ...] = (
    ("method.lr", ("inf", "nan", "-1", "1e30", "a", "[1]", "null")),
    ("method.betas", ("[2,3]", "[0.5]", "[]", "5", "[a,b]", "[nan,0.9]", "null", "[-1,0.9]")),
    ("method.batch_size", ("0", "-1", "1.5", "100000000000")),
    ("trainer.ema", ("1", "-0.1", "2", "nan", "inf", "a")),
    ("trainer.checkpoint_minutes", ("-1", "nan", "a", "[1]")),
)

#: Whole words: (name, what follows the run's words, what the answer says).
WORDS: tuple[tuple[str, str | Words, str], ...] = (
    ("two equals", "seed==5", ""),
    ("no key", "=5", ""),
    ("no value", "seed=", "seed"),
    ("no equals", "seed", "seed"),
    ("plus plus", "++nothing.here=1", "nothing"),
    ("plus a known key", "+trainer.lr=1", "lr"),
    ("plus experiment twice", "+experiment=no_such", "experiment"),
    ("unknown key", "sede=5", "seed"),
    ("key without its group", "epochs=10", "trainer.epochs"),
    ("another key without its group", "coreset=0.1", "method.coreset"),
    ("batch_size without its group", "batch_size=4", "method.batch_size"),
    ("delete a group", "~trainer", "trainer"),
    ("delete a needed key", "~dataset.name", "dataset.name"),
    ("delete the method", "~method", "method"),
    ("delete what is not there", "~nothing", "nothing"),
    ("delete a key", "~trainer.epochs", "trainer.epochs"),
    ("delete with a value", "~seed=7", "seed"),
    ("interpolation to nothing", "seed=${no.such.key}", ""),
    ("interpolation to itself", "seed=${seed}", "seed"),
    ("unknown resolver", "seed=${no_such:1}", ""),
    ("half an interpolation", "seed=${seed", ""),
    ("environment that is not set", "dataset.root=${oc.env:NO_SUCH_VARIABLE_HERE}", ""),
    ("interpolation of another kind", "image_size=${dataset.name}", "image_size"),
    ("deep list", "dataset.categories=" + "[" * 200 + "]" * 200, ""),
    ("deep mapping", "dataset.counts=" + "{a:" * 200 + "1" + "}" * 200, ""),
    ("unbalanced", "dataset.categories=[bolt", ""),
    ("quotes open", "image_size='64", "image_size"),
    ("many list entries", "dataset.categories=[" + ",".join(["bolt"] * 20000) + "x]", ""),
    ("a group of two", "dataset=[folder,demo]", "dataset"),
    ("an experiment of two", "experiment=[demo,demo_rd]", "experiment"),
    ("a sweep without -m", "seed=1,2,3", ""),
    ("a method of two", "method=rd,patchcore", "method"),
    ("hydra's folder", "hydra.run.dir=/tmp/x", "hydra"),
    ("hydra's verbosity", "hydra.verbose=true", "hydra"),
    ("hydra's launcher", "hydra/launcher=joblib", "hydra"),
    ("backbone as a word", "method.backbone=resnet18", "method.backbone.name"),
    ("a group as a number", "trainer=5", "trainer"),
    ("a group's value as text", "trainer.epochs.x=5", "trainer.epochs"),
    ("a list's element", "dataset.categories.0=bolt", ""),
    ("seed beyond 64 bits", "seed=1180591620717411303424", "seed"),
    ("category as a number", "dataset.categories=7", "categories"),
    ("category unknown", "dataset.categories=[boltt]", "bolt"),
    ("category in a mapping", "dataset.categories={bolt:1}", "categories"),
    ("categories empty", "dataset.categories=[]", "categories"),
    ("category null in a list", "dataset.categories=[null]", "categories"),
    ("category repeated", "dataset.categories=[[bolt]]", "categories"),
    ("counts as a number", "dataset.counts=5", "counts"),
    ("counts of another form", "dataset.counts={bolt:5}", "counts"),
    ("counts with words", "dataset.counts={bolt:[a,b,c]}", "counts"),
    ("counts that are not met", "dataset.counts={bolt:[1,1,1],nut:[1,1,1]}", "bolt"),
    ("root that is not there", "dataset.root=nowhere", "nowhere"),
    ("root that is a file", "dataset.root=own/bolt/train/good/000.png", "000.png"),
    ("root one level up", "dataset.root=.", "own"),
    ("root one level down", "dataset.root=own/bolt", "dataset.root"),
    ("run with a slash", "run=a/b", "run"),
    ("run that is dots", "run=..", "run"),
    ("run that is too long", "run=" + "x" * 300, "run"),
    ("run with a line end", "run='a\nb'", "run"),
    ("label with a slash", "dataset.label=../../x", "dataset.label"),
    ("device beyond", ("run=new", "trainer.device=cuda:99"), "trainer.device"),
    ("device of another kind", "trainer.device=tpu", "trainer.device"),
    ("device superscript", "trainer.device=cuda:\u00b2", "trainer.device"),
    ("device with a blank", "trainer.device=cuda: 1", "trainer.device"),
    ("shots of zero", ("setting=few_shot", "setting.shots=0"), "shots"),
    ("name overridden", "method.name=no_such", "no_such"),
    ("name as a module", "method.name=os", "os"),
    ("name as a path", "method.name=../rd", "rd"),
    ("reader as a module", "dataset.name=sys", "sys"),
    ("metric by name", "metric.name=adr", "ader"),
    ("setting by name", "setting.name=x", "x"),
    ("unknown argument of the method", "method.depth=5", "depth"),
    ("unknown argument of the reader", "dataset.depth=5", "depth"),
    ("weights that are not there", ("run=new", "method.backbone.pretrained=true", "paths.weights=own"), "resnet18"),
    ("NUL", "run=a\0b", "run"),
    ("surrogate", "run=a\udcff", ""),
    ("escape code in a value", "run=\x1b]0;x\x07", ""),
    ("escape code in a key", "\x1b[2Jx=1", ""),
    ("right to left in a value", "method=\u202erd", ""),
    ("control character in a category", "dataset.categories=['\x1b[31mbolt']", ""),
)
FLAGS: tuple[Words, ...] = (
    ("--nothing",),
    ("-x",),
    ("--cfg=nothing",),
    ("--cfg", "hydra"),
    ("--info",),
    ("--info", "all"),
    ("--package", "x"),
    ("--config-name", "x"),
    ("--config-name=x",),
    ("--config-path", "x"),
    ("--config-dir",),
    ("--config-dir", "nowhere"),
    ("--config-dir", "own/bolt/train/good/000.png"),
    ("--config-dir=",),
    ("--shell-completion", "install=bash"),
    ("--experimental-rerun", "x"),
    ("-m",),
    ("--multirun",),
    ("--",),
)
#: Commands: (words, what the answer says).
COMMANDS: tuple[tuple[Words, str], ...] = (
    (("evl",), "eval"),
    (("eval",), "RUN"),
    (("eval", "nowhere"), "nowhere"),
    (("eval", "own"), "own"),
    (("eval", "own/bolt/train/good/000.png"), "000.png"),
    (("eval", "/dev/zero"), "zero"),
    (("score",), "MAPS"),
    (("score", "nowhere", "dataset=folder", "dataset.root=own"), "nowhere"),
    (("score", "maps"), "dataset"),
    (("score", "own/bolt/train/good/000.png", "dataset=folder", "dataset.root=own"), "000.png"),
    (("score", "/dev/zero", "dataset=folder", "dataset.root=own"), "zero"),
    (("list",), "methods"),
    (("list", "nothing"), "nothing"),
    (("list", "methods", "x"), ""),
    (("data",), "check"),
    (("data", "chek", "dataset=folder"), "check"),
    (("data", "check"), "dataset"),
    (("data", "check", "dataset=nothing"), "nothing"),
    (("data", "check", "dataset=mvtec"), "mvtec"),
    (("data", "prepare", "dataset=mvtec"), "mvtec"),
    (("data", "prepare", "dataset=mvtec", "source=nowhere.tar"), "nowhere.tar"),
    (("data", "check", "dataset=folder", "dataset.root=own", "image_size=5"), "image_size"),
    (("data", "check", "dataset=folder", "dataset.root=own", "workers=-1"), "workers"),
    (("data", "check", "dataset=folder", "dataset.root=own", "report=own"), "report"),
    (("profile",), "method"),
    (("profile", "method=nothing"), "nothing"),
    (("profile", "method=rd", "format=xml"), "format"),
    (("doctor", "x"), "x"),
    (("dataset=folder",), ""),
    (("method=rd",), "dataset"),
    (("dataset=mvtec", "method=patchcore", "method.backbone.pretrained=false"), "mvtec"),
    (("rd",), ""),
    (("",), ""),
    (("\x1b[2J",), ""),
    (("--version=5",), ""),
)
#: What is odd and right.
DONE: tuple[tuple[str, Words], ...] = (
    ("experiment null", (*RUN, "experiment=null")),
    ("categories as one word", (*RUN, "dataset.categories=bolt", "run=one")),
    ("categories as a list", (*RUN, "dataset.categories=[bolt]", "run=one")),
    ("run of digits", (*RUN[:-1], "run=2024_05_01")),
    ("run that looks like a number", (*RUN[:-1], "run=1e3")),
    ("run that looks like a truth value", (*RUN[:-1], "run=true")),
    ("finished before", RUN),
    ("forced", (*RUN, "force=true")),
    ("two steps", DESCENT),
    ("scored", SCORE),
    ("help", ("--help",)),
    ("help of eval", ("eval", "--help")),
    ("version", ("--version",)),
    ("lists", ("list", "methods")),
    ("cfg", (*RUN, "--cfg")),
    ("cfg as Hydra's", (*RUN, "--cfg", "job")),
    ("check", ("data", "check", "dataset=folder", "dataset.root=own")),
    ("prepare what needs no preparation", ("data", "prepare", "dataset=folder", "dataset.root=own")),
)


def cases() -> Iterator[Case]:
    """Wrong words, and some right ones."""
    for keys, values, words in (
        (NUMBERS, NO_NUMBER, DESCENT),
        (CHOICES, NO_CHOICE, RUN),
        (TRUTHS, NO_TRUTH, RUN),
        (FOLDERS, NO_FOLDER, RUN),
    ):
        for key in keys:
            for value in values:
                if not _means_something(key, value):
                    yield Case(KIND, f"{key}={value}"[:60], (*words, f"{key}={value}"), says=key.split(".")[-1])
    for words, table in ((RUN, OF_PATCHCORE), (DESCENT, OF_RD)):
        for key, values in table:
            for value in values:
                name = f"{words[2]} {key}={value}"
                yield Case(KIND, name, (*words, f"{key}={value}"), says=key.split(".")[-1])
    for name, more, says in WORDS:
        yield Case(KIND, name, (*RUN, more) if isinstance(more, str) else (*RUN, *more), says=says)
    for flags in FLAGS:
        yield Case(KIND, f"flag {' '.join(flags)}", (*RUN, *flags), says=flags[0].split("=")[0])
    for words, says in COMMANDS:
        yield Case(KIND, f"command {' '.join(words)}", words, says=says)
    for name, words in DONE:
        yield Case(KIND, name, words, answer="done")
    yield Case(KIND, "ten thousand words", (*RUN, *[f"seed={n}" for n in range(10000)]), answer="either")
    for variable, value in (
        ("ADER_DATA", ""),
        ("ADER_DATA", "\udcff"),
        ("ADER_RESULTS", "/dev/null"),
        ("WORLD_SIZE", "x"),
    ):
        environment = ((variable, value),)
        yield Case(KIND, f"environment {variable}={value!a}", RUN, answer="either", environment=environment)
    yield Case(KIND, "home that cannot be written", RUN, answer="done", prepare=_no_home)


def _means_something(key: str, value: str) -> bool:
    """Whether the key may well have this value."""
    return (key, value) in {
        ("trainer.max_steps", "null"),
        ("recipe", "''"),
        ("experiment", "''"),
        ("metric.size", "5"),
        ("dataset.root", "''"),
        ("paths.cache", "/proc/x"),
        ("paths.cache", "/dev/null"),
        ("paths.cache", "a" * 5000),
    }


def _no_home(world: World) -> None:
    (world.folder / "home").chmod(0o500)
