"""Asking: conversation commands, batches, JSON, the local page."""

import http.client
import json
from threading import Thread

import pytest
from merge_run import make_adapter

from chat_models import load_chat
from chat_page import PageServer
from chat_session import answer_file, answer_once, converse
from errors import UserError
from utils.formatting import format_prompt

QUESTION = "What does DP stand for?"


@pytest.fixture(scope="module")
def chat(make_run, tiny_model):
    """The tiny model with a strong random adapter: base and tuned answers differ."""
    run = make_run()
    make_adapter(tiny_model, run, scale=0.5)
    return load_chat(run)


@pytest.fixture
def type_lines(monkeypatch):
    def run(chat, *lines: str) -> None:
        left = iter(lines)
        monkeypatch.setattr("builtins.input", lambda _: next(left, "/quit"))
        converse(chat)

    return run


def say(chat, use_base: bool) -> str:
    return "".join(chat.ask(format_prompt(QUESTION), use_base)).strip()


def test_base_and_tuned_answer_side_by_side(chat, type_lines, capsys):
    base, tuned = say(chat, True), say(chat, False)
    assert base != tuned
    type_lines(chat, QUESTION, "/base", "/both")
    out = " ".join(capsys.readouterr().out.split())
    for part in (tuned, f"base: {base}", f"tuned: {tuned}"):
        assert " ".join(part.split()) in out


def test_an_answer_sees_the_turns_before_it_and_new_forgets_them(chat, type_lines, monkeypatch):
    seen = []
    monkeypatch.setattr(
        type(chat), "ask", lambda self, prompt, use_base=None: seen.append(prompt) or iter(["ok"])
    )
    type_lines(chat, "one", "two", "/new", "three")
    assert [len(prompt) for prompt in seen] == [1, 3, 1]
    assert seen[1][1] == {"role": "assistant", "content": "ok"}


def test_a_long_conversation_loses_its_oldest_turns(chat):
    turn = [*format_prompt("word " * 60), {"role": "assistant", "content": "word " * 60}]
    talk = [{"role": "system", "content": "Short."}, *turn * 6, *format_prompt(QUESTION)]
    kept = chat.shorten(talk)
    assert kept[0] == talk[0] and kept[-1] == talk[-1] and 2 < len(kept) < len(talk)
    with pytest.raises(UserError, match="longer than the model's context"):
        chat.shorten(format_prompt("word " * 600))


def test_a_merged_model_answers_alone_and_loads_its_base_when_asked(tiny_merged):
    chat = load_chat(tiny_merged[1])
    say(chat, False)
    assert chat.base is None
    say(chat, True)
    assert chat.base is not None and chat.base.model is not chat.model


def test_a_file_of_questions_gets_both_answers(chat, tmp_path):
    rows = [{"instruction": QUESTION, "id": 7}, {"messages": format_prompt("Expand ROP.")}]
    file, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    assert answer_file(chat, str(file), str(out), (True, False)) == 2
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert answers[0]["id"] == 7 and answers[0].keys() >= {"base", "tuned"}
    assert answers[1]["messages"] == rows[1]["messages"]
    with pytest.raises(UserError, match="is the input"):
        answer_file(chat, str(file), str(file), (False,))
    file.write_text('{"instruction": "x"}\n{"question": "y"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2: not a question"):
        answer_file(chat, str(file), None, (False,))


def test_json_output_is_one_object(chat, capsys):
    answer_once(chat, format_prompt(QUESTION), (True, False), True)
    found = json.loads(capsys.readouterr().out)
    assert found["question"] == QUESTION and found.keys() == {"question", "base", "tuned"}


def test_a_failing_generation_ends_the_stream(chat, monkeypatch):
    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.ask(format_prompt(QUESTION)))


@pytest.fixture
def page(chat):
    server = PageServer(chat, 0)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def call(server, method: str, path: str, body: str = "", **headers: str):
    """(status, text, headers) of a request; header names have _ for -."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Host": f"127.0.0.1:{port}", **given})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), reply.headers


def test_the_page_answers_with_both_models_and_loads_nothing_from_elsewhere(page, chat):
    assert page.server_address[0] == "127.0.0.1"
    status, text, headers = call(page, "GET", "/")
    assert status == 200 and "http" not in text and "default-src 'none'" in str(headers)
    body = json.dumps({"question": QUESTION})
    status, text, _ = call(page, "POST", "/ask", body, Content_Type="application/json")
    assert status == 200
    assert json.loads(text) == {"base": say(chat, True), "tuned": say(chat, False)}


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "application/json", "Host": "evil.example:80"},  # DNS rebinding
        {"Content_Type": "application/json", "Origin": "http://evil.example"},
        {"Content_Type": "text/plain"},  # what a foreign form may post
        {"Content_Type": "application/json", "Content_Length": "99999999"},
    ],
)
def test_the_page_refuses_what_does_not_come_from_itself(page, headers):
    body = "" if "Content_Length" in headers else json.dumps({"question": QUESTION})
    assert call(page, "POST", "/ask", body, **headers)[0] == 400
    assert call(page, "GET", "/", Host="evil.example")[0] == 403
