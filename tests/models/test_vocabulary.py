"""Which ids two tokenizers share, and where they stop."""

import pytest

from tests.tiny import tiny_tokenizer
from trb_lab.errors import UsageError
from trb_lab.models.vocabulary import check_support, share_vocabulary
from trb_lab.spec.experiment import FullLoss, TopKLoss
from trb_lab.spec.warmup import OpdWarmup, SkdWarmup, TrbWarmup


class Names:
    """A tokenizer that is nothing but its list of tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids):
        return [self.tokens[i] for i in ids]


def test_shared_part_and_masked_ids():
    student, teacher = tiny_tokenizer(300, 0), tiny_tokenizer(290, 1)
    shared = share_vocabulary(student, teacher, (0,), (1, 0))
    assert shared.size == 290
    assert shared.stop_id == 0
    assert shared.stop_ids == (0, 1)
    assert shared.masked_ids == (1,)


def test_ids_with_different_tokens_carry_no_mass():
    tokens = [f"t{i}" for i in range(300)]
    other = [*tokens[:7], "x", *tokens[8:]]
    assert share_vocabulary(Names(tokens), Names(other), (0,), (0,)).masked_ids == (7,)


def test_tokenizers_of_different_families_are_refused():
    tokens = [f"t{i}" for i in range(300)]
    with pytest.raises(UsageError, match="do not share a vocabulary"):
        share_vocabulary(Names(tokens), Names([*tokens[1:], "t0"]), (0,), (0,))


def test_a_stop_id_that_is_another_token_elsewhere_is_refused():
    tokens = [f"t{i}" for i in range(300)]
    other = [*tokens[:7], "<eos>", *tokens[8:]]
    with pytest.raises(UsageError, match="id 7 ends a response in one model"):
        share_vocabulary(Names(tokens), Names(other), (0,), (7,))


def test_support_larger_than_the_vocabulary():
    shared = share_vocabulary(tiny_tokenizer(20, 0), tiny_tokenizer(20, 1), (0,), (1,))
    check_support(TopKLoss(top_k=20), shared, OpdWarmup())
    check_support(FullLoss(), shared, OpdWarmup())
    with pytest.raises(UsageError, match="at most 20"):
        check_support(TopKLoss(top_k=21), shared, OpdWarmup())


def test_skd_s_top_k_is_held_against_the_shared_vocabulary():
    shared = share_vocabulary(tiny_tokenizer(20, 0), tiny_tokenizer(20, 1), (0,), (1,))
    check_support(FullLoss(), shared, SkdWarmup(top_k=20))
    check_support(FullLoss(), shared, TrbWarmup())
    with pytest.raises(UsageError, match=r"warmup\.top_k is 21 and the models share 20 tokens"):
        check_support(FullLoss(), shared, SkdWarmup(top_k=21))
