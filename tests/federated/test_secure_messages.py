"""Messages and saved clients as flat records: there and back, through Flower's own, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ProtocolError
from trustsnn.federated.secure import Cohort, MaskedInput, Message, PublicKeys, SealedShares, Unmasking, UnmaskRequest
from trustsnn.federated.secure.client import ClientState

IDS = st.integers(0, 2**64 - 1)
BY_ID = st.dictionaries(IDS, st.binary(max_size=8), max_size=4)
ROW = st.lists(IDS, unique=True, max_size=4).map(lambda ids: tuple(sorted(ids)))
OF = {"run": st.text(max_size=5), "round": IDS}
MESSAGES = st.one_of(
    st.builds(PublicKeys, **OF, keys=st.binary(max_size=8)),
    st.builds(Cohort, **OF, keys=BY_ID),
    st.builds(SealedShares, **OF, sealed=BY_ID),
    st.builds(MaskedInput, **OF, vector=st.binary(max_size=8)),
    st.builds(UnmaskRequest, **OF, survivors=ROW, dropped=ROW),
    st.builds(Unmasking, **OF, seeds=BY_ID, keys=BY_ID),
    st.builds(ClientState, **OF, id=IDS, stage=st.text(max_size=3), keys=BY_ID, shares=BY_ID),
)
JUNK = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.binary(max_size=3)
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)


@settings(deadline=None, max_examples=150)
@given(MESSAGES)
def test_there_and_back(message):
    record = message.to_record()
    assert Message.from_record(record) == message == type(message).from_record(record)
    for value in record.values():
        kinds = {type(each) for each in value} if isinstance(value, list) else {type(value)}
        assert kinds <= {str} or kinds <= {int} or kinds <= {bytes}


@settings(deadline=None, max_examples=200)
@given(MESSAGES, st.data())
def test_altered_records_are_refused_or_other_messages(message, data):
    record = message.to_record()
    name = data.draw(st.sampled_from(sorted(record)))
    change = data.draw(st.sampled_from(["drop", "add", "junk"]))
    if change == "drop":
        del record[name]
    elif change == "add":
        record["more"] = 1
    else:
        record[name] = data.draw(JUNK)
    try:
        read = Message.from_record(record)
    except ProtocolError:
        return
    assert change == "junk"
    assert read.to_record() == record  # one record for one message


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [-1, 1], [1, 2**64], [True, 2], ["1", "2"], [1]])
def test_ids_have_one_form(ids):
    record = {**SealedShares(run="r", round=1, sealed={1: b"a", 2: b"b"}).to_record(), "sealed.ids": ids}
    with pytest.raises(ProtocolError, match="rising order"):
        SealedShares.from_record(record)


def test_another_kind_is_refused():
    record = PublicKeys(run="r", round=1, keys=b"").to_record()
    with pytest.raises(ProtocolError, match="Expected a message of kind Cohort, got 'PublicKeys'"):
        Cohort.from_record(record)


def test_secrets_are_not_shown():
    state = ClientState(run="r", round=1, id=1, channel=b"hush1", mask=b"hush2", seed=b"hush3", shares={1: b"hush4"})
    shown = repr(
        [
            state,
            MaskedInput(run="r", round=1, vector=b"hush5"),
            Unmasking(run="r", round=1, seeds={1: b"hush6"}, keys={1: b"hush7"}),
        ]
    )
    assert "hush" not in shown


def test_flower_carries_them():
    flower = pytest.importorskip("flwr.app")
    serde = pytest.importorskip("flwr.common.serde")
    messages = [
        PublicKeys(run="r", round=3, keys=b"\x00\xff"),
        SealedShares(run="r", round=3, sealed={0: b"a", 2**64 - 1: b"b"}),
        UnmaskRequest(run="r", round=2**64 - 1, survivors=(1, 2**64 - 1), dropped=()),
    ]
    for message in messages:
        wire = serde.config_record_to_proto(flower.ConfigRecord(message.to_record())).SerializeToString()
        back = serde.config_record_from_proto(serde.ProtoConfigRecord.FromString(wire))
        assert Message.from_record(back) == message
