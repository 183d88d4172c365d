import json

from liger.errors import OverloadedError
from liger.v1 import types_pb2
from tests.unit.liger.cli.conftest import model


def test_the_answer_streams_and_its_account_is_on_standard_error(liger):
    done = liger("generate", "What is the capital of France?")

    assert done.exit_code == 0
    assert done.stdout == "Paris.\n"
    assert "24 tokens in, 11 out (4 cached)" in done.stderr
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
