"""POST /tokenize and /detokenize, GET /tokenizer_info: what evaluation harnesses ask, in vLLM's form."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.model.chat_template import jinja_of
from heedful.model.template import encode
from heedful.serve.api_errors import invalid
from heedful.serve.endless_texts import refuse_huge, refuse_many_messages
from heedful.serve.generating import check_tokens
from heedful.serve.messages import conversation_tokens, joined, turns_of_messages
from heedful.serve.request_bodies import DetokenizeBody, TokenizeBody, read_body
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import ServingState


async def tokenize(request: Request) -> Response:
    """The token ids that a completion (``prompt``) or a chat completion (``messages``) would begin with."""
    state: ServingState = request.app.state.serving
    body = await read_body(request, TokenizeBody)
    served = _model(state, request, body.model)
    refuse_huge([body.prompt or ""], "prompt")
    if body.messages is not None:
        refuse_many_messages(served, body.messages)
        turns = turns_of_messages(body.messages)
        refuse_huge([joined(turns)], "messages")
        tokens = await state.tokenize(lambda: conversation_tokens(served, turns))
    else:
        text = body.prompt or ""
        tokens = await state.tokenize(lambda: _text_tokens(served, text, body.add_special_tokens))
    names = await state.tokenize(lambda: list(map(served.token_text.name, tokens))) if body.return_token_strs else None
    return JSONResponse({"count": len(tokens), "max_model_len": served.window, "tokens": tokens, "token_strs": names})


def _text_tokens(served: ServedModel, text: str, begin: bool) -> list[int]:
    """A special token's name by itself is that token, which is how clients ask for its id; within a text it stays text."""
    special = {str(token): number for number, token in served.tokenizer.added_tokens_decoder.items() if token.special}
    if text in special:
        return [special[text]]
    tokens = encode(served.tokenizer, [text])[0]
    return tokens if begin else tokens[len(encode(served.tokenizer, [""])[0]) :]


async def detokenize(request: Request) -> Response:
    """The text of token ids, without special tokens."""
    state: ServingState = request.app.state.serving
    body = await read_body(request, DetokenizeBody)
    served = _model(state, request, body.model)
    check_tokens(served, [body.tokens], "tokens")
    return JSONResponse({"prompt": served.token_text.text(body.tokens)})


async def tokenizer_info(request: Request) -> Response:
    """Special tokens, chat template and context window of a model: ``/tokenizer_info?model=NAME``."""
    state: ServingState = request.app.state.serving
    served = _model(state, request, request.query_params.get("model"))
    tokenizer = served.tokenizer
    info: dict[str, Any] = {
        "model": served.name,
        "tokenizer_class": type(tokenizer).__name__,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
        "chat_template": jinja_of(tokenizer, "chat" if served.template == "plain" else served.template),
        "model_max_length": served.window,
        "vocab_size": len(tokenizer),
        "template": served.template_name,
    }
    return JSONResponse(info)


def _model(state: ServingState, request: Request, name: str | None) -> ServedModel:
    """The model that was named; without a name the first that the key opens. Raises ApiError."""
    if name is None:
        opened = state.models_of(request)
        if not opened:
            raise invalid("you must provide model", "model", "missing_required_parameter")
        return opened[0]
    return state.model_for(request, name, scores=None)
