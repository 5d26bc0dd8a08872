"""What real servers do that the documentation of the format does not say, each by the name of a model.

A quirk gets the body of a request and how many requests its model has had, counting this one. It returns the pieces of
an event stream, or a whole response.
"""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

from PIL import Image
from starlette.responses import JSONResponse, Response

Body = dict[str, Any]
Quirk = Callable[[Body, int], "Response | list[str]"]

OLLAMA_CONTEXT = 2048
TOKENS_A_PICTURE, TOKENS_OF_TEXT = 500, 100


def pictures_in(body: Body) -> list[bytes]:
    """Return the JPEGs of a request, in order."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def chunk(reason: str | None = None, usage: Body | None = None, **delta: Any) -> str:
    """Return one event of a stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'choices': choices, **({'usage': usage} if usage else {})})}\n\n"


def said(text: str, prompt_tokens: int = 10) -> list[str]:
    """Return a stream with this text."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 3}
    return [chunk(content=text), chunk("stop", usage), "data: [DONE]\n\n"]


def seeing(body: Body, prompt_tokens: int = 10) -> list[str]:
    """Return a stream that says how many pictures came."""
    return said(f"I see {len(pictures_in(body))} pictures.", prompt_tokens)


def error(message: str, status: int = 400, **more: Any) -> Response:
    """Return an error in OpenAI's form."""
    return JSONResponse({"error": {"message": message, **more}}, status)


def _ollama_truncates(body: Body, tries: int) -> Response | list[str]:
    tokens = TOKENS_OF_TEXT + TOKENS_A_PICTURE * len(pictures_in(body))
    return seeing(body, min(tokens, OLLAMA_CONTEXT))


def _truncates_oddly(body: Body, tries: int) -> Response | list[str]:
    return seeing(body, min(TOKENS_OF_TEXT + TOKENS_A_PICTURE * len(pictures_in(body)), 1501))


def _thinks_in(name: str) -> Quirk:
    def think(body: Body, tries: int) -> Response | list[str]:
        return [chunk(content="", **{name: "secretly "}), chunk(content=None, **{name: "a dog"}), *said("Yes.")]

    return think


def _thinks_inline(body: Body, tries: int) -> Response | list[str]:
    return [chunk(content="<think>secretly a "), chunk(content="dog</think>\n"), *said("Yes.")]


def _thinks_everything(body: Body, tries: int) -> Response | list[str]:
    return [chunk(reasoning="secretly a dog"), chunk("length"), "data: [DONE]\n\n"]


def _leaks(body: Body, tries: int) -> Response | list[str]:
    return [chunk(content="Yes.<|im_"), chunk(content="end|>\n<|im_start|>user\nsecretly"), chunk("stop")]


def _vllm_old_error(body: Body, tries: int) -> Response | list[str]:
    told = {"object": "error", "message": "The model `x` is broken.", "type": "BadRequestError", "code": 400}
    return JSONResponse(told, 400)


def _one_picture(body: Body, tries: int) -> Response | list[str]:
    if len(pictures_in(body)) > 1:
        return error("At most 1 image(s) may be provided in one prompt.", type="BadRequestError", code=400)
    return seeing(body)


def _vllm_context(body: Body, tries: int) -> Response | list[str]:
    needed = TOKENS_OF_TEXT + TOKENS_A_PICTURE * len(pictures_in(body))
    if needed > 1500:
        return error(
            f"This model's maximum context length is 1500 tokens. However, you requested {needed} tokens "
            f"({needed - 8} in the messages, 8 in the completion). Please reduce the length of the messages."
        )
    return seeing(body)


def _llama_context(body: Body, tries: int) -> Response | list[str]:
    with Image.open(io.BytesIO(pictures_in(body)[0])) as picture:
        if picture.width <= 48:
            return seeing(body)
    return error(
        "the request exceeds the available context size, try increasing it",
        type="exceed_context_size_error",
        n_prompt_tokens=900,
        n_ctx=600,
    )


def _loading(body: Body, tries: int) -> Response | list[str]:
    told = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    return seeing(body) if tries > 4 else error(status=503, **told)


def _loading_for_ever(body: Body, tries: int) -> Response | list[str]:
    return error("Loading model", 503, type="unavailable_error", code=503)


def _no_mmproj(body: Body, tries: int) -> Response | list[str]:
    hint = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
    return error(hint, 500, type="server_error", code=500)


def _mistral(body: Body, tries: int) -> Response | list[str]:
    if "stream_options" in body:
        detail = [
            {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
        ]
        return JSONResponse({"detail": detail}, 422)
    return seeing(body)


def _mistral_refuses(body: Body, tries: int) -> Response | list[str]:
    detail = [{"type": "missing", "loc": ["body", "safe_prompt"], "msg": "Field required"}]
    return JSONResponse({"object": "error", "message": {"detail": detail}, "code": None}, 422)


def _o_series(body: Body, tries: int) -> Response | list[str]:
    if "max_tokens" in body:
        return error("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                     "'max_completion_tokens' instead.", code="unsupported_parameter", param="max_tokens")  # fmt: skip
    if body.get("temperature", 1) != 1:
        return error("Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value "
                     "is supported.", code="unsupported_value", param="temperature")  # fmt: skip
    return seeing(body)


def _capped(words: str, most: int) -> Quirk:
    def cap(body: Body, tries: int) -> Response | list[str]:
        return error(words.format(asked=body["max_tokens"])) if body["max_tokens"] > most else seeing(body)

    return cap


def _slow_down(body: Body, tries: int) -> Response | list[str]:
    if tries == 1:
        return JSONResponse({"error": {"message": "Rate limit reached"}}, 429, {"Retry-After": "2"})
    return seeing(body)


def _slow_down_long(body: Body, tries: int) -> Response | list[str]:
    return JSONResponse({"error": {"message": "Rate limit reached"}}, 429, {"Retry-After": "20"})


def _no_quota(body: Body, tries: int) -> Response | list[str]:
    return error("You exceeded your current quota.", 429, type="insufficient_quota", code="insufficient_quota")


def _whole_body(body: Body, tries: int) -> Response | list[str]:
    text = f"I see {len(pictures_in(body))} pictures."
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    return JSONResponse({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 4}})


def _whole_refusal(body: Body, tries: int) -> Response | list[str]:
    message = {"role": "assistant", "content": None, "refusal": "I cannot identify people."}
    return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def _lm_studio_error(body: Body, tries: int) -> Response | list[str]:
    return ['event: error\ndata: {"error": {"message": "Model unloaded."}}\n\n']


def _bare(body: Body, tries: int) -> Response | list[str]:
    return [chunk(content="I see"), chunk("stop", content=" 4 pictures.")]


def _filtered(body: Body, tries: int) -> Response | list[str]:
    return [chunk(content=""), chunk("content_filter")]


def _refusing(body: Body, tries: int) -> Response | list[str]:
    return [chunk(content=None, refusal="I cannot identify people."), chunk("stop")]


def _empty(body: Body, tries: int) -> Response | list[str]:
    return [chunk("stop"), "data: [DONE]\n\n"]


def _mumbles(body: Body, tries: int) -> Response | list[str]:
    return said("I would say that there might be a car, in a way.")


def _reads(body: Body, tries: int) -> Response | list[str]:
    """A language model that understands "how many ...s?"."""
    thing = json.loads(body["messages"][-1]["content"])["question"].removeprefix("how many ").rstrip("s?")
    fields = {"kind": "count", "things": [thing], "relation": "", "place": "", "at_least": None}
    return said(json.dumps({**fields, "certainty": 0.8, "offers": []}))


def _calls(*calls: tuple[str, Any]) -> list[str]:
    """Return a stream that calls tools, with its arguments in two pieces as servers send them."""
    parts = []
    for index, (name, given) in enumerate(calls):
        text = given if isinstance(given, str) else json.dumps(given)
        parts.append(
            chunk(tool_calls=[{"index": index, "id": f"c{index}", "function": {"name": name, "arguments": text[:5]}}])
        )
        parts.append(chunk(tool_calls=[{"index": index, "function": {"arguments": text[5:]}}]))
    return [*parts, chunk("tool_calls", {"prompt_tokens": 50, "completion_tokens": 9}), "data: [DONE]\n\n"]


def _results(body: Body) -> list[Any]:
    """Return what the tools have returned so far."""
    return [json.loads(message["content"]) for message in body["messages"] if message["role"] == "tool"]


def _agent(body: Body, tries: int) -> Response | list[str]:
    """A model that browses and searches, looks at what it found, and answers with what looking told."""
    results = _results(body)
    if pictures_in(body):
        return said(f"I see {len(pictures_in(body))} pictures.")
    if "tools" not in body:
        return said(f"In the end: {len(results)} results.")
    match len(results):
        case 0:
            return _calls(("browse", {}), ("search", {"phrase": "a person", "k": 5, "camera": "door"}))
        case 2:
            ids = [each["frame_id"] for each in results[1]["frames"]]
            return _calls(("look", {"frame_ids": ids, "question": "Who is it?"}))
    return said(f"It was so: {results[-1]['answers'][0]}")


def _agent_slowly(body: Body, tries: int) -> Response | list[str]:
    """As `_agent`, but thinks for a second each time."""
    time.sleep(1)
    return _agent(body, tries)


def _wrong_once(wrong: tuple[str, Any]) -> Quirk:
    """A model that makes one wrong call before it goes on as `_agent`."""

    def answer(body: Body, tries: int) -> Response | list[str]:
        if "tools" in body and not _results(body):
            return _calls(wrong)
        messages = body["messages"][:2] + body["messages"][4:]
        return _agent({**body, "messages": messages if "tools" in body else body["messages"]}, tries)

    return answer


def _always(*calls: tuple[str, Any]) -> Quirk:
    def answer(body: Body, tries: int) -> Response | list[str]:
        return said(f"I see {len(pictures_in(body))} pictures.") if pictures_in(body) else _calls(*calls)

    return answer


def _looks_at_nothing(body: Body, tries: int) -> Response | list[str]:
    return said(f"I see {len(pictures_in(body))} pictures." if pictures_in(body) else "A dog, surely.")


def _calls_nobody(body: Body, tries: int) -> Response | list[str]:
    return error("x does not support tools") if "tools" in body else seeing(body)


def _marked_up(body: Body, tries: int) -> Response | list[str]:
    return said(
        "**Two cars** came:\n\n- a *red* one\n- a `blue` one\n\n[more](https://evil.example/x) "
        "![seen](https://evil.example/y.png) <img src=https://evil.example/z onerror=alert(1)> <b>bold</b>"
    )


def _unpulled(body: Body, tries: int) -> Response | list[str]:
    return error("model 'qwen' not found, try pulling it first", 404, type="not_found_error")


COLOURS = {"orange": (255, 165, 0), "purple": (128, 0, 128), "grey": (128, 128, 128), "black": (0, 0, 0)}


def colour_of(jpeg: bytes) -> str:
    """Return the name of the colour in the corner of a picture."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
    assert isinstance(corner, tuple)
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], corner, strict=True)))


def _sighted(
    *, most: int = 99, tools: bool = True, schema: bool = True, thinks: bool = False, context: int = 10**6
) -> Quirk:
    """A model that tells the colours of the pictures it is sent."""

    def answer(body: Body, tries: int) -> Response | list[str]:
        shown = pictures_in(body)
        if len(shown) > most:
            return error(f"At most {most} image(s) may be provided in one prompt.")
        if "tools" in body:
            if not tools:
                return error("library/x does not support tools")
            call = {"index": 0, "id": "c1", "function": {"name": "show_digit", "arguments": '{"digit": 8}'}}
            return [chunk(tool_calls=[call]), chunk("tool_calls"), "data: [DONE]\n\n"]
        if "response_format" in body and "verdict" in json.dumps(body["response_format"]):
            return said('{"verdict": "yes"}')
        if "response_format" in body:
            return said('{"larger": 8}') if schema else said("The larger number is 8.")
        thoughts = [chunk(reasoning="hm")] if thinks else []
        tokens = min(context, TOKENS_OF_TEXT + TOKENS_A_PICTURE * len(shown))
        fit = (tokens - TOKENS_OF_TEXT) // TOKENS_A_PICTURE
        return thoughts + said(", ".join(map(colour_of, shown[:fit])) or "I am ready.", tokens)

    return answer


def _slow(body: Body, tries: int) -> Response | list[str]:
    time.sleep(0.3 * len(pictures_in(body)))
    return _sighted()(body, tries)


def _blind(body: Body, tries: int) -> Response | list[str]:
    return said("The picture shows a sunny street with 3 people.")


QUIRKS: dict[str, Quirk] = {
    "sees": _sighted(),
    "sees-one": _sighted(most=1, tools=False, schema=False, thinks=True),
    "sees-few": _sighted(context=1650),
    "sees-slowly": _slow,
    "blind": _blind,
    "ollama-not-pulled": _unpulled,
    "ollama-truncates": _ollama_truncates,
    "truncates-oddly": _truncates_oddly,
    "ollama-reasoning": _thinks_in("reasoning"),
    "vllm-reasoning": _thinks_in("reasoning_content"),
    "inline-thoughts": _thinks_inline,
    "only-thinks": _thinks_everything,
    "leaks-tokens": _leaks,
    "vllm-old-error": _vllm_old_error,
    "vllm-one-picture": _one_picture,
    "vllm-context": _vllm_context,
    "llama-context": _llama_context,
    "llama-loading": _loading,
    "llama-loads-for-ever": _loading_for_ever,
    "llama-no-mmproj": _no_mmproj,
    "mistral": _mistral,
    "mistral-refuses": _mistral_refuses,
    "o-series": _o_series,
    "capped": _capped("max_tokens must be <= 6, got {asked}", 6),
    "capped-openai": _capped("max_tokens is too large: {asked}. This model supports at most 6 completion tokens.", 6),
    "capped-vllm": _capped(
        "'max_tokens' is too large: {asked}. This model's maximum context length is 506 tokens and your request has 500 "
        "input tokens ({asked} > 506 - 500).",
        6,
    ),
    "slow-down": _slow_down,
    "slow-down-long": _slow_down_long,
    "no-quota": _no_quota,
    "proxy-whole-body": _whole_body,
    "proxy-whole-refusal": _whole_refusal,
    "lm-studio-error": _lm_studio_error,
    "no-usage-no-done": _bare,
    "content-filter": _filtered,
    "refusal-field": _refusing,
    "empty-content": _empty,
    "markdown": _marked_up,
    "agent": _agent,
    "agent-slowly": _agent_slowly,
    "agent-wrong-tool": _wrong_once(("erase_memory", {"camera": "door"})),
    "agent-broken-json": _wrong_once(("search", '{"phrase": "a pers')),
    "agent-wrong-camera": _wrong_once(("search", {"phrase": "a dog", "camera": "../../etc"})),
    "agent-wrong-time": _wrong_once(("browse", {"after": "when the cat came"})),
    "agent-upside-down": _wrong_once(("browse", {"after": "2026-11-22 18:00", "before": "2026-11-22 17:00"})),
    "agent-unseen-frame": _wrong_once(("look", {"frame_ids": [10**9], "question": "What?"})),
    "agent-nonsense": _always(("search", {"phrase": 3}), ("look", []), ("fly", {})),
    "agent-endless": _always(("search", {"phrase": "a dog"})),
    "agent-looks-at-nothing": _looks_at_nothing,
    "agent-refused": _calls_nobody,
    "wrong-times": lambda body, tries: said("A man came at 03:33:33."),
    "left-for-a-count": lambda body, tries: said("On the left."),
    "mumbles": _mumbles,
    "reads": _reads,
}
