"""The tokens of texts by a model's name, for plans of mixtures, which know no model."""

from collections.abc import Callable, Sequence

from pipelines.contract.errors import UsageError


def tokens_by_model(
    model: str, tokenizer: str | None, max_tokens: int | None
) -> tuple[Callable[[str], Sequence[int]], int]:
    """A function from a text to all of its tokens, and how many of them the model reads (max_tokens, if given).

    tokenizer: a file of PaliGemma's or BERT's, None for the built-in one. Raises UsageError for an unknown model and a
    tokenizer that is not its own.
    """
    from model.config import named_config
    from model.tokenizer import own_tokenizer

    try:
        config = named_config(model)
        encode = own_tokenizer(config, tokenizer).whole
    except (ValueError, OSError) as error:
        raise UsageError(f"--model {model}: {error}") from error
    return encode, max_tokens or config.max_tokens
