import numpy as np

from radar_rl.rollouts import held_out
from radar_rl.rollouts.split import learned_from, validated_on


def test_the_split_never_changes() -> None:
    ids = [f"gsm8k-test-{i}" for i in range(12)]
    assert np.flatnonzero(held_out(ids, 0.3)).tolist() == [0, 2, 7, 9, 10, 11]
    assert held_out(ids[5:], 0.3).tolist() == held_out(ids, 0.3)[5:].tolist()


def test_about_the_fraction_is_held_out_and_more_only_adds() -> None:
    ids = [f"prompt-{i}" for i in range(5000)]
    few, many = held_out(ids, 0.3), held_out(ids, 0.5)
    assert abs(few.mean() - 0.3) < 0.02
    assert many[few].all()
    assert not held_out(ids, 0.0).any()
    assert held_out(ids, 1.0).all()


def test_a_share_of_the_training_prompts_is_part_of_every_larger_one() -> None:
    ids = [str(i) for i in range(2000)]
    apart, few, many = held_out(ids, 0.3), learned_from(ids, 0.3, 0.1), learned_from(ids, 0.3, 0.5)
    assert not (apart & many).any()
    assert (many | ~few).all()
    assert 0.4 < few.sum() / (0.1 * 0.7 * 2000) < 1.6
    np.testing.assert_array_equal(learned_from(ids, 0.3, 1.0), ~apart)


def test_prompts_to_validate_on_are_neither_held_out_nor_learned_from() -> None:
    ids = [str(i) for i in range(2000)]
    apart, chosen_by = held_out(ids, 0.3), validated_on(ids, 0.3, 0.2)
    learned = learned_from(ids, 0.3, 1.0, 0.2)
    np.testing.assert_array_equal(apart.astype(int) + chosen_by + learned, 1)
    assert abs(chosen_by.mean() - 0.14) < 0.03
    assert learned[learned_from(ids, 0.3, 0.5, 0.2)].all()
    assert not validated_on(ids, 0.3, 0.0).any()
