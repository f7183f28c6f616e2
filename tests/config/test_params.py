"""params.yaml: what is committed is valid, and whatever is wrong with it is said in one sentence."""

import copy
import inspect
import json
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from pydantic import BaseModel, ValidationError

from spiking_diffusion import config
from spiking_diffusion.config import Params, check_params, load_params, read_yaml
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.dvc import dvc_yaml
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.reporting.recipes import recipes_page

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
RAW = yaml.safe_load(TEXT)
PARAMS = check_params(RAW)
DELETE = object()
NAN, INF = float("nan"), float("inf")


def edited(path, value, raw=RAW):
    """A copy of ``raw`` with the entry at ``path`` ("a/b/c") set, or deleted."""
    raw = copy.deepcopy(raw)
    *above, last = path.split("/")
    node = raw
    for key in above:
        node = node[key]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return raw


def leaves(node, path=()):
    """(path, value) of everything that is not a mapping."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def mappings(node, path=()):
    """Paths of all mappings."""
    if isinstance(node, dict):
        yield path
        for key, value in node.items():
            yield from mappings(value, (*path, key))


def complaint(raw, where="params.yaml"):
    """The sentence with which ``raw`` is refused."""
    with pytest.raises(UserError) as caught:
        check_params(raw, where)
    return one_sentence(caught, where)


def file_complaint(path):
    with pytest.raises(UserError) as caught:
        load_params(path)
    return one_sentence(caught, str(path))


def one_sentence(caught, start):
    message = str(caught.value)
    assert message.startswith(start)
    assert "\n" not in message
    assert "  " not in message, "a gap, where something was left empty"
    return message


# --- the committed file ---------------------------------------------------------------------------------


def test_committed_file_is_valid():
    assert load_params(ROOT / "params.yaml") == PARAMS


@pytest.mark.parametrize("name", PARAMS.all_runs)
def test_run_is_its_recipe_with_its_own_lines_on_top(name):
    run = PARAMS.resolve(name)
    own = RAW[PARAMS.family_of(name).section][name]
    overrides = dict(leaves({k: v for k, v in own.items() if k not in ("dataset", "recipe", "tokenizer")}))
    recipe = PARAMS.recipes[own["recipe"]].model_dump()
    if "tokenizer" in own:
        recipe |= PARAMS.resolve(own["tokenizer"]).recipe.model_dump(include={"neuron", "vqsvae"})
    expected = dict(leaves(recipe)) | overrides
    assert dict(leaves(run.recipe.model_dump())) == expected
    assert (run.name, run.dataset, run.recipe_name) == (name, PARAMS.datasets[own["dataset"]], own["recipe"])
    assert run.model == ("spiking-diffusion" if name in RAW["runs"] else "fsvae")


def test_override_changes_only_the_named_keys():
    lines = {"dataset": "mnist", "recipe": "paper", "vqsvae": {"k": 0.125, "train": {"lr": 0.5}}, "seed": 7}
    changed = dict(leaves(check_params(edited("runs/mnist", lines)).resolve("mnist").recipe.model_dump()))
    paper = dict(leaves(PARAMS.recipes["paper"].model_dump()))
    assert {key: changed[key] for key in changed if changed[key] != paper[key]} == {
        ("seed",): 7,
        ("vqsvae", "k"): 0.125,
        ("vqsvae", "train", "lr"): 0.5,
    }


def test_a_run_takes_the_tokenizer_of_another():
    run = PARAMS.resolve("digits-best")
    assert run.tokenizer == "digits"
    assert run.recipe.vqsvae == PARAMS.resolve("digits").recipe.vqsvae != PARAMS.recipes["best"].vqsvae
    raw = edited("recipes/quick/vqsvae/k", 0.5, edited("recipes/quick/neuron/tau", 3.0))
    before, after = (Job(params, "sample", "digits-best") for params in (PARAMS, check_params(raw)))
    assert (after.run.recipe.vqsvae.k, after.run.recipe.neuron.tau) == (0.5, 3.0)
    assert before.key == after.key  # its weights are an input, and change


@pytest.mark.parametrize(
    ("key", "value", "fragments"),
    [
        ("tokenizer", "digit", ["runs.mine.tokenizer is 'digit'", "did you mean 'digits'?"]),
        ("tokenizer", "digits-fsvae", ["is 'digits-fsvae'", "did you mean"]),
        ("tokenizer", "digits-best", ["trains no VQ-SVAE"]),
        ("tokenizer", "mine", ["trains no VQ-SVAE"]),
        ("tokenizer", "mnist-quick", ["is trained on 'mnist', not 'digits'"]),
        ("vqsvae", {"k": 0.5}, ["both tokenizer and vqsvae", "change it in 'digits'"]),
        ("neuron", {"tau": 3.0}, ["both tokenizer and neuron"]),
    ],
)
def test_tokenizers_that_do_not_fit(key, value, fragments):
    mine = {"dataset": "digits", "recipe": "best", "tokenizer": "digits", key: value}
    said = complaint(edited("runs/mine", mine))
    assert all(fragment in said for fragment in fragments), said


def test_overriding_a_run_leaves_recipe_and_other_runs_alone():
    changed = check_params(edited("runs/mnist/vqsvae", {"k": 0.125}))
    assert changed.recipes == PARAMS.recipes
    assert all(changed.resolve(name) == PARAMS.resolve(name) for name in PARAMS.all_runs if name != "mnist")


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        (lambda: PARAMS.resolve("mnits"), ["'mnits'", "did you mean 'mnist'?"]),
        (lambda: PARAMS.resolve("zzzzzz"), ["'zzzzzz'", "digits", "mnist-fsvae"]),
        (lambda: PARAMS.family_of("../x"), ["'../x'"]),
        (lambda: PARAMS.dataset("mnits"), ["'mnits'", "did you mean 'mnist'?"]),
    ],
)
def test_unknown_names(call, fragments):
    with pytest.raises(UserError) as caught:
        call()
    message = one_sentence(caught, "there is no")
    assert all(fragment in message for fragment in fragments)


# --- what is refused ------------------------------------------------------------------------------------

R, P = "recipes/paper", "recipes.paper"
RUN = {"dataset": "mnist", "recipe": "paper"}
FILE = {"name": "a", "urls": [], "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("path", "value", "fragments"),
    [
        # keys
        ("colour", 1, ["colour", "unknown key"]),
        (f"{R}/vqsvae/tauSyn", 2.0, [f"{P}.vqsvae.tauSyn", "unknown key"]),
        (f"{R}/vqsvae/T", DELETE, [f"{P}.vqsvae.T is missing"]),
        (f"{R}/sdid", DELETE, [f"{P}.sdid is missing"]),
        ("suites", DELETE, ["suites is missing"]),
        ("runs/mnist/dataset", DELETE, ["runs.mnist.dataset is missing"]),
        ("datasets/mnist/classes", DELETE, ["datasets.mnist.classes is missing"]),
        # types
        (f"{R}/vqsvae/T", True, [f"{P}.vqsvae.T", "rue", "integer"]),
        (f"{R}/vqsvae/T", "16", [f"{P}.vqsvae.T", "'16'", "integer"]),
        (f"{R}/vqsvae/T", 16.0, [f"{P}.vqsvae.T", "16.0", "integer"]),
        (f"{R}/sdid/train/lr", "1e-3", [f"{P}.sdid.train.lr", "'1e-3'", "number"]),
        (f"{R}/neuron/detach_reset", 0, [f"{P}.neuron.detach_reset", "0", "bool"]),
        (f"{R}/vqsvae/codebook", 3, [f"{P}.vqsvae.codebook", "3"]),
        (f"{R}/vqsvae/channels", 32, [f"{P}.vqsvae.channels", "32", "list"]),
        (f"{R}/vqsvae/channels", [32], [f"{P}.vqsvae.channels", "[32]"]),
        ("runs", [], ["runs is []"]),
        ("runs/mnist", None, ["runs.mnist"]),
        ("suites/quick", "digits", ["suites.quick", "'digits'", "list"]),
        # ranges
        (f"{R}/vqsvae/T", 0, [f"{P}.vqsvae.T is 0", "1"]),
        (f"{R}/vqsvae/tau_syn", 0.5, [f"{P}.vqsvae.tau_syn is 0.5", "1"]),
        (f"{R}/vqsvae/tau_syn", NAN, [f"{P}.vqsvae.tau_syn is nan", "finite"]),
        (f"{R}/neuron/tau", INF, [f"{P}.neuron.tau is inf", "finite"]),
        (f"{R}/neuron/v_reset", -INF, [f"{P}.neuron.v_reset is -inf", "finite"]),
        (f"{R}/neuron/v_reset", 1.0, [f"{P}.neuron", "v_reset must be below v_threshold"]),
        (f"{R}/sdid/train/lr", 0.0, [f"{P}.sdid.train.lr is 0.0", "greater than 0"]),
        (f"{R}/sdid/train/betas", [0.9, NAN], [f"{P}.sdid.train.betas.1 is nan"]),
        (f"{R}/vqsvae/k_init", NAN, [f"{P}.vqsvae.k_init is nan"]),
        (f"{R}/vqsvae/codebook/decay", NAN, [f"{P}.vqsvae.codebook.decay is nan"]),
        (f"{R}/vqsvae/output_decay", NAN, [f"{P}.vqsvae.output_decay is nan"]),
        (f"{R}/vqsvae/beta", NAN, [f"{P}.vqsvae.beta is nan", "finite"]),
        (f"{R}/fsvae/scheduled_sampling/end", 1.5, [f"{P}.fsvae.scheduled_sampling.end is 1.5"]),
        (f"{R}/vqsvae/codebook/size", 1, [f"{P}.vqsvae.codebook.size is 1", "2"]),
        (f"{R}/vqsvae/codebook/size", 65536, [f"{P}.vqsvae.codebook.size is 65536", "65535"]),
        (f"{R}/sample/n", 1, [f"{P}.sample.n is 1", "2"]),
        (f"{R}/sample/steps", 0, [f"{P}.sample.steps is 0", "1", "'all'"]),
        (f"{R}/sample/steps", 2.0, [f"{P}.sample.steps is 2.0", "integer", "'all'"]),
        ("runs/mnist/sample", {"steps": 50}, ["runs.mnist.sample.steps is 50", "'mnist'", "49 tokens"]),
        ("runs/cifar10/sample", {"steps": 65}, ["runs.cifar10.sample.steps is 65", "64 tokens"]),
        (f"{R}/seed", -1, [f"{P}.seed is -1"]),
        (f"{R}/seed", 2**32, [f"{P}.seed is 4294967296"]),  # numpy, under KID, takes no more than 32 bits
        ("datasets/mnist/split/seed", -1, ["datasets.mnist.split.seed is -1"]),
        ("classifier/networks", 1, ["classifier.networks is 1", "2"]),  # one alone has no deviation
        ("classifier/channels", [], ["classifier.channels is []", "1"]),
        ("classifier/channels", [4, 4, 4, 4], ["classifier.channels is [4, 4, 4, 4]", "3"]),
        ("classifier/epochs", 0, ["classifier.epochs is 0", "1"]),
        ("classifier/least_steps", 0, ["classifier.least_steps is 0", "1"]),
        ("classifier/batch_size", 1, ["classifier.batch_size is 1", "2"]),
        ("classifier/weight_decay", -0.1, ["classifier.weight_decay is -0.1", "0"]),
        ("classifier/weight_decay", NAN, ["classifier.weight_decay is nan"]),
        ("classifier/steps", 400, ["classifier.steps", "unknown key"]),
        # choices
        ("device", "gpu", ["device is 'gpu'", "'cuda'"]),
        (f"{R}/vqsvae/coding", "rate", [f"{P}.vqsvae.coding is 'rate'", "'asg'", "'poisson'"]),
        (f"{R}/vqsvae/straight_through", "spike", [f"{P}.vqsvae.straight_through is 'spike'", "'embedding'"]),
        (f"{R}/evaluate/protocols", ["inception"], [f"{P}.evaluate.protocols", "'inception'", "'classifier'"]),
        ("datasets/mnist/format", "png", ["datasets.mnist.format is 'png'", "'idx'"]),
        # what does not go together
        (f"{R}/vqsvae/codebook/update", "gradient", [f"{P}.vqsvae.codebook", "restart_dead", "update: ema"]),
        ("datasets/mnist/shape", [1, 30, 28], ["datasets.mnist", "divisible by 4"]),
        ("datasets/mnist/shape", [1, 28, 30], ["datasets.mnist", "divisible by 4"]),
        ("datasets/mnist/shape", [28, 28], ["datasets.mnist.shape", "[28, 28]"]),
        ("datasets/mnist/files", {}, ["datasets.mnist", "'train_images'", "[]"]),
        ("datasets/mnist/files/extra", FILE, ["datasets.mnist", "'extra'"]),
        ("datasets/digits/files", {"archive": FILE}, ["datasets.digits", "'archive'"]),
        ("datasets/cifar10/files/archive/sha256", "ABC", ["datasets.cifar10.files.archive.sha256 is 'ABC'"]),
        ("datasets/cifar10/files/archive/urls", ["ftp://x/y"], ["datasets.cifar10.files.archive.urls", "'ftp://x/y'"]),
        ("datasets/cifar10/files/archive/name", "../x", ["datasets.cifar10.files.archive.name is '../x'"]),
        ("datasets/mnist/shape", [1, 4, 28], ["datasets.mnist", "[1, 4, 28]", "at least 8"]),
        ("datasets/mnist/shape", [2, 28, 28], ["datasets.mnist", "[2, 28, 28]", "1 for grey", "3 for colour"]),
        ("datasets/mnist/resize", "crop", ["datasets.mnist", "'crop'", "idx does not resize images"]),
        ("datasets/mnist/resize", None, ["datasets.mnist.resize is None", "'crop'", "'stretch'"]),
        ("datasets/mnist/classes", 65537, ["datasets.mnist.classes is 65537"]),
        # files of one's own
        ("datasets/cifar10/files", {"data": {"path": "x"}}, ["datasets.cifar10", "['archive']", "['data']"]),
        ("datasets/cifar10/files/archive/urls", ["https://me:secret@x.org/a"], ["x.org", "password", "~/.netrc"]),
        ("datasets/cifar10/files/archive", {"path": ""}, ["datasets.cifar10.files.archive.path is ''"]),
        ("datasets/cifar10/files/archive", {"path": 3}, ["datasets.cifar10.files.archive.path is 3"]),
        ("datasets/cifar10/files/archive", {"path": "a\nb"}, ["datasets.cifar10.files.archive.path"]),
        ("datasets/cifar10/files/archive", {"path": "${x}"}, ["datasets.cifar10.files.archive.path is '${x}'"]),
        (
            "datasets/cifar10/files/archive",
            {"path": "x", "urls": []},
            ["datasets.cifar10.files.archive.urls", "unknown key"],
        ),
        ("datasets/cifar10/files/archive", {"paht": "x"}, ["datasets.cifar10.files.archive.name is missing"]),
        ("datasets/cifar10/files/archive", "my.npz", ["datasets.cifar10.files.archive is 'my.npz'", "mapping"]),
        # names
        *[
            (f"{section}/{name}", value, [section, f"'{name}'"])
            for section, value in [
                ("runs", RUN),
                ("baselines", RUN),
                ("suites", ["digits"]),
                ("recipes", RAW["recipes"]["paper"]),
            ]
            for name in ["Upper", "a.b", "a b", "-a", "a_b", ""]
        ],
        # references
        ("runs/mnist/dataset", "mnits", ["runs.mnist.dataset is 'mnits'", "did you mean 'mnist'?"]),
        ("runs/mnist/recipe", "zzz", ["runs.mnist.recipe is 'zzz'", "paper", "quick"]),
        ("baselines/mnist-fsvae/recipe", "papre", ["baselines.mnist-fsvae.recipe is 'papre'", "did you mean 'paper'?"]),
        ("suites/quick", ["digitz"], ["suites.quick", "'digitz'", "did you mean 'digits'?"]),
        ("suites/quick", ["digits", "digits"], ["suites.quick", "digits", "twice"]),
        ("suites/quick", [], ["suites.quick is []"]),
        ("suites/quick-energy", ["digits"], ["suites.quick-energy", "another ending"]),
        ("baselines/mnist", RUN, ["'mnist'", "run and a baseline"]),
        # overrides
        ("runs/mnist/vqsave", {"T": 3}, ["runs.mnist.vqsave", "unknown key"]),
        ("runs/mnist/vqsvae", {"codebok": {}}, ["runs.mnist.vqsvae.codebok", "unknown key"]),
        ("runs/mnist/vqsvae", {"T": 0}, ["runs.mnist.vqsvae.T is 0"]),
        ("runs/mnist/vqsvae", 3, ["runs.mnist.vqsvae", "3"]),
        ("runs/mnist/vqsvae", {"codebook": {"update": "gradient"}}, ["runs.mnist.vqsvae.codebook", "restart_dead"]),
        ("baselines/mnist-fsvae/fsvae", {"T": 2.5}, ["baselines.mnist-fsvae.fsvae.T is 2.5", "integer"]),
    ],
)
def test_refusal_names_key_and_value(path, value, fragments):
    message = complaint(edited(path, value))
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("path", ["my.npz", "/data/my photos", "../x/é.tar.gz"])
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_own_data_is_one_entry_and_one_run(kind, path):
    entry = RAW["datasets"]["digits"] | {"format": kind, "files": {"data": {"path": path}}}
    params = check_params(edited("runs/mine", {"dataset": "mine", "recipe": "quick"}, edited("datasets/mine", entry)))
    assert params.resolve("mine").dataset.paths == [Path(path)]
    assert params.dataset("mnist").paths == []


@pytest.mark.parametrize("name", ["../x", "a\nb"])
def test_run_name_that_would_leave_its_folder_or_line(name):
    raw = copy.deepcopy(RAW)
    raw["runs"][name] = RUN
    assert repr(name) in complaint(raw)


@pytest.mark.parametrize("k", [2, -0.1, True, "lerned", NAN, None])
def test_k_is_learned_or_a_number_and_the_message_says_both(k):
    message = complaint(edited(f"{R}/vqsvae/k", k))
    assert f"{P}.vqsvae.k" in message
    assert "learned" in message
    assert "more)" not in message, f"the other possibility is hidden: {message}"


@pytest.mark.parametrize("k", ["learned", 0, 0.0, 0.5, 1, 1.0])
def test_k_that_is_accepted(k):
    assert check_params(edited(f"{R}/vqsvae/k", k)).recipes["paper"].vqsvae.k == k


@pytest.mark.parametrize("path", ["recipes/paper/vqsvae/codebook", "runs/mnist", "datasets/digits/split"])
def test_refusal_does_not_speak_of_python_classes(path):
    assert "instance of" not in complaint(edited(path, 3))


SMALL = {
    **RAW,
    "datasets": {name: RAW["datasets"][name] for name in ("digits", "mnist")},
    "recipes": {"quick": RAW["recipes"]["quick"]},
    "runs": {"digits": {"dataset": "digits", "recipe": "quick"}},
    "baselines": {"mnist-fsvae": {"dataset": "mnist", "recipe": "quick"}},
    "suites": {"quick": ["digits", "mnist-fsvae"]},
}


@pytest.mark.parametrize("value", [None, {"a": 1}, [[]], "\N{SNOWMAN}"], ids=repr)
def test_no_leaf_takes_just_anything(value):
    """Every knob refuses values that are no use to it, and the sentence names the knob."""
    free_text = {"title", "licence", "citation"}
    for path, _ in leaves(SMALL):
        if isinstance(value, str) and path[-1] in free_text:
            continue
        message = complaint(edited("/".join(path), value, SMALL))
        assert ".".join(path) in message


def test_no_mapping_takes_an_unknown_key():
    for path in mappings(SMALL):
        assert "zzz" in complaint(edited("/".join((*path, "zzz")), 1, SMALL))


def test_every_key_of_recipes_classifier_and_datasets_is_needed():
    fixed = [p for p, _ in leaves(SMALL) if p[0] in ("recipes", "classifier", "datasets", "device")]
    for path in fixed:
        if path != ("datasets", "digits", "files"):
            assert path[-1] in complaint(edited("/".join(path), DELETE, SMALL))


# --- the file itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("lr: 0.003", "lr: 3e-3", ["classifier.lr", "'3e-3'", "0.003"]),
        ("device: auto", "device: off", ["device", "False", "'off'"]),
        ("seed: 0}", "seed: 012}", ["datasets.digits.split.seed", "10", "12"]),
        ("seed: 0}", "seed: 1:30}", ["datasets.digits.split.seed", "90", "'1:30'"]),
        ("device: auto", "device: auto\ndevice: cpu", ["duplicate", "device"]),
        ("device: auto", "device: [auto", ["not valid YAML", "line"]),
        ("device: auto", "device: \tauto: x", ["not valid YAML", "line"]),
        ("device: auto", "device: !!python/object/apply:os.getcwd []", ["not valid YAML", "python/object"]),
        ("device: auto", "device: auto\n---\n", ["not valid YAML"]),
    ],
)
def test_yaml_that_the_two_tools_read_differently_or_not_at_all(tmp_path, old, new, fragments):
    path = tmp_path / "params.yaml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    message = file_complaint(path)
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "- device: auto", "just words", "3"])
def test_file_that_is_not_a_mapping(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    message = file_complaint(path)
    assert "Params" not in message, f"a reader of params.yaml knows no class of this name: {message}"


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a\n  b: *a\n"], ids=["list", "mapping"])
def test_yaml_without_end(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    file_complaint(path)


def test_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(TEXT.encode("utf-16"))
    assert "cannot be read" in file_complaint(path)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."], ids=["missing", "folder"])
def test_file_that_cannot_be_opened(tmp_path, name):
    assert "--params" in file_complaint(tmp_path / name)


A = "a: &a {x: 1, y: 2}\n"


@pytest.mark.parametrize(
    "text",
    [
        "b:\n  <<: *a\n  y: 3\n",
        "b:\n  y: 3\n  <<: *a\n",
        "b: {<<: *a, y: 3, x: 1}\n",
        "b: {y: 3, x: 1, <<: *a}\n",
        "b: {<<: [{y: 3}, *a]}\n",
        "b: {<<: {<<: *a, y: 3}}\n",
    ],
)
def test_aliases_and_merges_are_read(tmp_path, text):
    """Both parsers also agree on the order of the keys."""
    path = tmp_path / "x.yaml"
    path.write_text(A + text)
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("b: {<<: *a, y: 1e-3}\n", ["b.y", "'1e-3'", "0.001"]),
        ("b: {c: &c {z: off}}\nd: {<<: *c, y: 3}\n", ["b.c.z", "False", "'off'"]),
        ("b: {<<: *a, on: 3}\n", ["a key of b", "True", "'on'"]),
        # with `<<` in the mapping, both parsers accept it
        ("b:\n  <<: *a\n  y: 3\n  y: 4\n", ['duplicate key "y"', "line 5"]),
        ("b: {<<: {y: 3, y: 4}}\n", ['duplicate key "y"', "line 2"]),
        ("b: {<<: *a, <<: *a}\n", ['duplicate key "<<"', "line 2"]),
        ("b: {<<: *a, [1]: 3}\n", ["not valid YAML"]),
        ("b: {<<: 3}\n", ["not valid YAML", "merging"]),
    ],
)
def test_merges_do_not_hide_what_is_refused(tmp_path, text, fragments):
    path = tmp_path / "x.yaml"
    path.write_text(A + text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    message = one_sentence(caught, str(path))
    assert [fragment for fragment in fragments if fragment not in message] == [], message


# --- recipes that inherit -------------------------------------------------------------------------------


def test_recipes_share_no_mapping():
    """DVC changes mappings in place, and so do tests."""
    raw = yaml.safe_load(TEXT)["recipes"]
    owners = {}
    for path in mappings(raw):
        node = raw
        for key in path:
            node = node[key]
        other = owners.setdefault(id(node), path)
        assert other == path, f"recipes.{'.'.join(path)} needs its own `<<`, it is recipes.{'.'.join(other)}"


@pytest.mark.parametrize("key", ["paper.sdid.T", "released.neuron.tau", "quick.vqsvae.k", "ablation.energy.n"])
def test_dvc_sets_a_key_in_one_recipe_only(tmp_path, key):
    """With a section that two recipes share, `dvc exp run -S` changed both recipes or none."""
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    apply_overrides(path, [f"recipes.{key}=7"])
    assert read_yaml(path) == edited(f"recipes/{key.replace('.', '/')}", 7)


def test_heirs_follow_paper(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("v_reset: 0.0", "v_reset: 0.1", 1), encoding="utf-8")
    assert {recipe.neuron.v_reset for recipe in load_params(path).recipes.values()} == {0.1}


# --- the classes ----------------------------------------------------------------------------------------

CLASSES = [c for _, c in inspect.getmembers(config, inspect.isclass) if issubclass(c, BaseModel)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_classes_are_strict_frozen_and_without_hidden_defaults(cls):
    assert cls.model_config["strict"] is True
    assert cls.model_config["frozen"] is True
    assert cls.model_config["extra"] == ("allow" if cls is config.Run else "forbid")
    optional = [name for name, field in cls.model_fields.items() if not field.is_required()]
    assert optional == (["tokenizer"] if cls in (config.Run, config.RunSettings) else [])


def test_frozen_in_practice():
    run = PARAMS.resolve("digits")
    for section, key in [(PARAMS, "device"), (run, "name"), (run.recipe, "seed"), (run.recipe.vqsvae.codebook, "size")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, getattr(section, key))


# --- generated files ------------------------------------------------------------------------------------


def generated(name):
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"{name} has not been generated yet")
    return path.read_text(encoding="utf-8")


def test_schema_is_in_step_with_the_code():
    committed = json.loads(generated("workflow/schemas/params.schema.json"))
    assert committed == Params.model_json_schema(), "run `make generated`"


def test_dvc_yaml_is_in_step_with_the_code():
    assert generated("dvc.yaml") == dvc_yaml(PARAMS), "run `make generated`"


def test_recipes_page_is_in_step_with_params():
    assert generated("docs/recipes.md") == recipes_page(PARAMS), "run `make generated`"


def test_recipes_page_has_every_key_and_marks_differences():
    page = recipes_page(PARAMS).splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in page if "| `" in line
    }
    recipes = list(PARAMS.recipes)
    assert rows["`vqsvae.codebook.init`"][recipes.index("released")] == "**normal**"
    assert rows["`neuron.v_reset`"] == ["0.0"] * len(recipes)
    assert rows["`sdid.channels`"][0] == "[64, 128, 256, 512, 256]"
