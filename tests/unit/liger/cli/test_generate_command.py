import json

import pytest

from liger.cli.account import account_line
from liger.cli.generate_options import Controls
from liger.client import GenerateOptions, Placement, Timings, Usage
from liger.errors import OverloadedError
from liger.v1 import inference_pb2, types_pb2
from tests.unit.liger.cli.conftest import model


def test_the_answer_streams_and_its_account_is_on_standard_error(liger):
    done = liger("generate", "What is the capital of France?")

    assert done.exit_code == 0
    assert done.stdout == "Paris.\n"
    assert "24 tokens in, 11 out (4 of 24 cached, 9.0 ms saved)" in done.stderr
    assert "queue 1.5 ms · prefill 80 ms · decode 500 ms (20.0 tokens/s) · total 600 ms · ranks w0, w1" in done.stderr


def test_a_model_with_a_template_is_asked_as_a_chat(liger, gateway):
    liger("generate", "Hello", "--system", "Be brief.")

    turns = [(turn.role, turn.content) for turn in gateway.asked[0].chat.messages]
    assert turns == [("system", "Be brief."), ("user", "Hello")]


def test_raw_text_is_continued_as_it_is(liger, gateway):
    liger("generate", "Once upon", "--raw")
    assert gateway.asked[0].text == "Once upon"


def test_a_model_without_a_template_continues_text(liger, gateway):
    gateway.models = [model("plain", types_pb2.TASK_GENERATE)]
    liger("generate", "Once upon")
    assert gateway.asked[0].text == "Once upon"


def test_a_dash_reads_standard_input(liger, gateway):
    liger("generate", "-", text="from a pipe")
    assert gateway.asked[0].chat.messages[0].content == "from a pipe"


def test_sampling_options_reach_the_gateway_and_others_stay_unset(liger, gateway):
    liger(
        "generate",
        "x",
        "--max-tokens",
        "5",
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--seed",
        "3",
        "--stop",
        "a",
        "--stop",
        "b",
    )

    asked = gateway.asked[0]
    assert (asked.stop.max_tokens, list(asked.stop.stop)) == (5, ["a", "b"])
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.seed) == (0.5, 0.9, 3)
    assert not asked.sampling.HasField("top_k")
    assert not asked.HasField("n")


def test_several_samples_are_shown_one_after_another(liger):
    assert liger("generate", "x", "--n", "2").stdout == "Paris.\n--- 2\nParis.\n"


def test_json_holds_samples_and_account(liger):
    found = json.loads(liger("generate", "x", "--n", "2", "--json").stdout)

    assert [sample["text"] for sample in found["samples"]] == ["Paris.", "Paris."]
    assert found["samples"][0]["reason"] == "stop"
    assert found["seed"] == 7
    assert found["usage"]["completion_tokens"] == 11
    assert found["placement"]["worker_ids"] == ["w0", "w1"]


def test_a_failure_in_the_stream_is_one_line_with_its_reason(liger, gateway):
    gateway.failure = OverloadedError("too many requests; try again later")

    done = liger("generate", "x")

    assert done.exit_code == 1
    assert done.stderr.splitlines() == ["error: too many requests; try again later [OVERLOADED]"]


def test_an_unknown_model_is_one_line_with_its_reason(liger):
    done = liger("generate", "x", "--model", "nonsense")
    assert (done.exit_code, done.stderr) == (1, "error: no model nonsense [MODEL_NOT_FOUND]\n")


def test_one_of_several_models_must_be_named(liger, gateway):
    gateway.models.append(model("other", types_pb2.TASK_GENERATE))
    done = liger("generate", "x")
    assert done.exit_code == 2
    assert "name one of chat, other" in " ".join(done.stderr.split())


def test_a_cluster_without_a_fitting_model_says_so(liger, gateway):
    gateway.models = []
    done = liger("generate", "x")
    assert done.exit_code == 1
    assert "no model of this cluster can generate" in done.stderr


def test_an_absent_gateway_is_named(liger):
    done = liger("generate", "x", "--gateway", "127.0.0.1:9")
    assert done.exit_code == 1
    assert "no gateway answers at 127.0.0.1:9" in done.stderr


def test_every_control_reaches_the_gateway(liger, gateway, tmp_path):
    grammar = tmp_path / "answer.lark"
    grammar.write_text("start: /a+/", encoding="utf-8")
    flags = {
        "--max-tokens": "9",
        "--min-tokens": "1",
        "--temperature": "0.5",
        "--top-k": "4",
        "--top-p": "0.25",
        "--min-p": "0.125",
        "--typical-p": "0.75",
        "--repetition-penalty": "1.5",
        "--presence-penalty": "-0.5",
        "--frequency-penalty": "0.5",
        "--seed": "3",
        "--n": "2",
        "--best-of": "4",
        "--logprobs": "5",
        "--prompt-logprobs": "6",
        "--grammar": str(grammar),
        "--priority": "-7",
        "--timeout": "20",
    }
    repeated = "--stop A --stop-token 2 --stop-token 3 --allowed-token 8 --allowed-token 9 --banned-token 10"
    biases = "--logit-bias 8=-1.5 --logit-bias 9=2 --include-stop --ignore-eos"
    words = [word for pair in flags.items() for word in pair]
    done = liger("generate", "x", *words, *repeated.split(), *biases.split())

    assert done.exit_code == 0
    asked = gateway.asked[0]
    assert asked.sampling == types_pb2.SamplingParameters(
        temperature=0.5,
        top_k=4,
        top_p=0.25,
        min_p=0.125,
        typical_p=0.75,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.5,
        logit_bias={8: -1.5, 9: 2.0},
        allowed_token_ids=[8, 9],
        banned_token_ids=[10],
        seed=3,
    )
    assert asked.stop == inference_pb2.StopConditions(
        max_tokens=9, min_tokens=1, stop=["A"], stop_token_ids=[2, 3], include_stop=True, ignore_eos=True
    )
    assert (asked.n, asked.best_of, asked.logprobs, asked.prompt_logprobs, asked.priority) == (2, 4, 5, 6, -7)
    assert asked.structured_output.grammar == "start: /a+/"


def test_every_option_of_the_client_is_one_of_the_command():
    assert set(Controls().options()) == set(GenerateOptions.__annotations__) - {"request_id"}


@pytest.mark.parametrize("schema", ['{"type": "integer"}', " true"])
def test_a_schema_may_be_given_in_the_command_or_in_a_file(liger, gateway, tmp_path, schema):
    file = tmp_path / "schema.json"
    file.write_text(schema, encoding="utf-8")
    liger("generate", "x", "--json-schema", schema)
    liger("generate", "x", "--json-schema", str(file))
    assert [asked.structured_output.json_schema for asked in gateway.asked] == [schema, schema]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json-schema", "no-such.json"], "error: cannot read no-such.json: No such file or directory [CONFIG]"),
        (["--grammar", "/"], "error: cannot read /: Is a directory [CONFIG]"),
        (["--logit-bias", "one=two"], "'one=two' is no ID=BIAS"),
        (["--logit-bias", "5"], "'5' is no ID=BIAS"),
    ],
)
def test_flags_that_cannot_be_read_are_wrong_usage(liger, gateway, words, said):
    done = liger("generate", "x", *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert gateway.asked == []


def test_two_structures_at_once_are_refused(liger, gateway):
    done = liger("generate", "x", "--regex", "a+", "--json-schema", "{}")
    assert done.exit_code == 1
    assert "json_schema and regex exclude one another" in done.stderr
    assert gateway.asked == []


def test_json_shows_likelihoods_and_token_ids(liger):
    words = ["--logprobs", "0", "--prompt-logprobs", "0", "--best-of", "2", "--json"]
    found = json.loads(liger("generate", "x", *words).stdout)

    assert [item["token_id"] for item in found["prompt_logprobs"]] == [3]
    [sample] = found["samples"]
    assert (sample["token_ids"], [item["logprob"] for item in sample["logprobs"]]) == ([8, 8], [-0.25, -0.25])
    assert sample["logprob"] == -0.5
    assert found["timings"]["saved_prefill_ns"] == 9_000_000


@pytest.mark.parametrize(
    ("saved_ns", "said"), [(0, "(512 of 530 cached)"), (8_000_000, "(512 of 530 cached, 8.0 ms saved)")]
)
def test_the_account_tells_what_the_prefix_cache_held(saved_ns, said):
    usage = Usage(prompt_tokens=530, completion_tokens=3, cached_tokens=512)
    spent = dict.fromkeys(["queue_ns", "prefill_ns", "decode_ns", "total_ns", "compute_ns"], 1)
    timings = Timings(**spent, exposed_communication_ns=0, depth=1, saved_prefill_ns=saved_ns)
    placement = Placement(group="g", epoch=1, worker_ids=("w0",))
    assert account_line(usage, timings, placement).startswith(f"530 tokens in, 3 out {said} · ")
