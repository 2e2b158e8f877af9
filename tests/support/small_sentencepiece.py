"""A tokenizer of a few words in the form of PaliGemma's, whose own file is to be downloaded."""

from pathlib import Path


def write_small_sentencepiece(path: Path) -> Path:
    """Trains it and writes it to a path that ends in `.model`."""
    import sentencepiece  # an environment of another trainer may lack it

    sentences = iter(["pick up the red block", "put the cup on the plate", "open the drawer"] * 20)
    settings = {"vocab_size": 60, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "hard_vocab_limit": False}
    settings["add_dummy_prefix"] = False  # as in PaliGemma
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_prefix=str(path.with_suffix("")),
        user_defined_symbols=["\n"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **settings,
    )
    return path
