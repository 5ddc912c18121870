import pytest

from images.sources.splits import SPLIT_WORDS, split_folders, split_named, split_of, split_of_table


@pytest.mark.parametrize("word", SPLIT_WORDS)
def test_split_named__a_word_in_any_case_and_nothing_else(word):
    assert {split_named(form) for form in (word, word.upper(), word.title(), f" {word} ")} == {SPLIT_WORDS[word]}
    assert split_named(f"{word}s") == split_named(f"my {word}") == ""


@pytest.mark.parametrize(
    ("path", "split"),
    [
        (b"data/train-00000-of-00002.parquet", "train"), (b"validation/0000.parquet", "val"), (b"Testing.parquet", "test"),
        (b"train/test-0.parquet", "test"), (b"labels_train.csv", "train"), (b"train2017/1.parquet", "train"),
        (b"valset.csv", "val"), (b"shard-0.parquet", ""), (b"trainers.parquet", ""), (b"contest.csv", ""),
        (b"1dev2.parquet", ""), (b"\xfftrain.parquet", "train"),
    ],
)  # fmt: skip
def test_split_of__is_the_last_word_of_a_path(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("Training Testing", {"Training": "train", "Testing": "test"}),
        ("train val validation extra", {"train": "train", "val": "val", "validation": "val"}),
        ("seg_train seg_test seg_pred", {"seg_train": "train", "seg_test": "test"}),
        ("train2017 val2017", {"train2017": "train", "val2017": "val"}),
        ("Training_Set Test_Set", {"Training_Set": "train", "Test_Set": "test"}),
        ("bullet_train test_tube dev_board", {}),
        ("train_images", {}),
        ("ant bee", {}),
    ],
)
def test_split_folders__are_words_or_words_with_one_thing_around(names, splits):
    found = split_folders([name.encode() for name in names.split()])
    assert {name.decode(): split for name, split in found.items()} == splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        (b"train.csv", "train"), (b"Val_Labels.tsv", "val"), (b"train/labels.csv", "train"), (b"test/train.csv", "train"),
        (b"train_val.csv", ""), (b"train/train-test.csv", ""), (b"labels.csv", ""),
    ],
)  # fmt: skip
def test_split_of_table__is_the_only_one_in_its_name_or_that_of_its_folder(path, split):
    assert split_of_table(path) == split
