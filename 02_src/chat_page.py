"""A local web page that asks base and tuned model the same question, side by side.

Python's own http.server, on 127.0.0.1 only, off unless --web is given: a page of one form is no
reason for a web framework. What guards it: requests with another Host are refused (a foreign site
that points its name at this address), questions must be JSON from the page's own origin (a foreign
site cannot post them), answers are inserted as text, and nothing is loaded from elsewhere.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from chat_models import Chat
from errors import UserError
from utils.formatting import format_prompt

LOOPBACK = "127.0.0.1"
LONGEST_BODY = 65_536  # bytes of a question
POLICY = "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>base and tuned</title>
<link rel="stylesheet" href="/page.css"><script src="/page.js" defer></script>
<h1>Base and tuned, the same question</h1>
<form><textarea rows="3" placeholder="What does BOP stand for?"></textarea><button>Ask</button>
</form><main><section><h2>Base</h2><p id="base"></p></section>
<section><h2>Tuned</h2><p id="tuned"></p></section></main></html>
"""
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
textarea{width:100%;font:inherit;box-sizing:border-box}main{display:flex;gap:2rem}
section{flex:1}p{white-space:pre-wrap}
"""
SCRIPT = """const form = document.querySelector("form");
form.addEventListener("submit", async event => {
  event.preventDefault();
  const question = document.querySelector("textarea").value;
  for (const side of ["base", "tuned"]) document.getElementById(side).textContent = "...";
  const reply = await fetch("/ask", {method: "POST", body: JSON.stringify({question}),
    headers: {"Content-Type": "application/json"}});
  const answers = await reply.json();
  for (const side of ["base", "tuned"])
    document.getElementById(side).textContent = answers[side] ?? answers.error;
});
"""
FILES = {
    "/": ("text/html", PAGE),
    "/page.css": ("text/css", STYLE),
    "/page.js": ("text/javascript", SCRIPT),
}


class PageServer(ThreadingHTTPServer):
    """Serves the page for one chat; questions wait for each other."""

    daemon_threads = True

    def __init__(self, chat: Chat, port: int) -> None:
        self.chat, self.turn = chat, Lock()
        super().__init__((LOOPBACK, port), PageHandler)

    @property
    def hosts(self) -> set[str]:
        """The Host headers of the page's own address."""
        return {f"{name}:{self.server_address[1]}" for name in (LOOPBACK, "localhost")}

    def answer(self, question: str) -> dict[str, str]:
        """Both sides' answers."""
        prompt = format_prompt(question)
        with self.turn:
            sides = {"base": True, "tuned": False}
            return {name: "".join(self.chat.ask(prompt, s)).strip() for name, s in sides.items()}


class PageHandler(BaseHTTPRequestHandler):
    """GET the page's files, POST /ask."""

    server: PageServer
    timeout = 30  # seconds a client may take to send its request

    def do_GET(self) -> None:
        """One of the page's files."""
        kind, text = FILES.get(self.path, ("text/plain", ""))
        if not self.is_own() or not text:
            self.reply(404 if self.is_own() else 403, "text/plain", "not here")
            return
        self.reply(200, kind, text)

    def do_POST(self) -> None:
        """A question, as {"question": "..."}; the reply holds base and tuned, or error."""
        question = self.read_question()
        if question is None:
            self.reply(400, "application/json", '{"error": "not a question"}')
            return
        try:
            answers = self.server.answer(question)
        except UserError as error:
            answers = {"error": str(error)}
        self.reply(200, "application/json", json.dumps(answers))

    def is_own(self) -> bool:
        """Whether the request names this address, and comes from this page or from none."""
        origin = self.headers.get("Origin")
        own = {f"http://{host}" for host in self.server.hosts}
        return self.headers.get("Host") in self.server.hosts and (origin is None or origin in own)

    def read_question(self) -> str | None:
        """The question of a well-formed request; None otherwise."""
        length = self.headers.get("Content-Length", "")
        is_json = self.headers.get_content_type() == "application/json"
        fits = length.isdigit() and int(length) <= LONGEST_BODY
        if not (self.path == "/ask" and self.is_own() and is_json and fits):
            return None
        try:
            question = json.loads(self.rfile.read(int(length)))["question"]
        except (ValueError, KeyError, TypeError):
            return None
        return question if isinstance(question, str) and question.strip() else None

    def reply(self, status: int, kind: str, text: str) -> None:
        """Send `text`."""
        body = text.encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values) -> None:
        """Questions are private: nothing is logged."""


def serve(chat: Chat, port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: the port is taken.
    """
    try:
        server = PageServer(chat, port)
    except OSError as error:
        raise UserError(f"--web {port}: {error.strerror}; choose another port") from None
    print(f"open http://{LOOPBACK}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
    with server:
        server.serve_forever()
