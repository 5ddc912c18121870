import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.redaction import MARK, one_line, redacted, refuse_secrets, without_user

SECRET = "c4n4ryV4lue"
WITH_SECRETS = [
    f"https://user:{SECRET}@example.org/owner/repository.git",
    f"https://{SECRET}@example.org/owner/repository.git",
    f"postgresql+psycopg2://mlflow:{SECRET}@db:5432/mlflow",
    f"mysql://mlflow:with/slash{SECRET}@db/mlflow",
    f"mysql://mlflow:with@sign{SECRET}@db/mlflow",
    f"HTTPS://user:{SECRET}@EXAMPLE.ORG",
    f"could not reach 'http://u:{SECRET}@127.0.0.1:1/api' and \"http://v:{SECRET}@127.0.0.1:2\"",
    f"https://example.org/images?user=a&access_token={SECRET}",
    f"https://bucket.example.org/key?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"https://example.org/share?sv=1&sig={SECRET}",
    f"Server=db;password={SECRET};",
]
WITHOUT = [
    "data/creatures", "/home/user@corp/images", "hf-hub:timm/vit_small@main", "timm:vit_small_patch16_224.dino",
    "https://example.org/a/b?split=train", "http://127.0.0.1:4200/api", "sqlite:////home/user@corp/tracking/mlflow.db",
    "git@github.com:owner/repository.git", "s3://bucket/images", "keys: neighbours, tokens; sign=1", "a@b.example",
]  # fmt: skip


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_redacted__what_is_secret_in_an_address_is_gone_and_the_rest_stays(text):
    found = redacted(text)
    assert SECRET not in found and MARK in found
    assert redacted(found) == found
    with pytest.raises(ValueError, match="credentials") as error:
        refuse_secrets(text)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("text", WITHOUT)
def test_redacted__what_holds_no_secret_stays_as_it_is(text):
    assert redacted(text) == text
    refuse_secrets(text)


# What may stand in an address unencoded (RFC 3986, userinfo), and what people paste nevertheless.
@given(
    st.text("abcXYZ019-._~!$&()*+,;=:%/@", min_size=6, max_size=30),
    st.sampled_from(["http", "https", "s3", "ssh", "postgresql"]),
    st.sampled_from(["", ":8080", "/path", ":1/a/b"]),
)
def test_redacted__no_password_survives_in_any_address(password, scheme, rest):
    text = redacted(f"asked {scheme}://user:{password}QQ@example.org{rest} and failed")
    assert "QQ" not in text and text.startswith("asked ") and text.endswith(f"@example.org{rest} and failed")


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING"]
)
def test_redacted__the_value_of_a_secret_variable_is_known(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert redacted(f"401 for {SECRET}.") == f"401 for {MARK}."
    monkeypatch.delenv(name)
    assert redacted(f"401 for {SECRET}.") == f"401 for {SECRET}."


def test_redacted__other_variables_are_no_secrets(monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("HF_TOKEN", "no")
    assert redacted("no socket at /run/agent") == "no socket at /run/agent"


def test_without_user__is_an_address_that_works():
    assert without_user("http://user:word@host:5000/#/runs") == "http://host:5000/#/runs"
    assert without_user("http://host:5000") == "http://host:5000"


def test_one_line__a_terminal_has_nothing_to_obey():
    assert one_line(ValueError("a\nb\x1b[2Jc\u2028d\x07")) == "a b?[2Jc d?"
