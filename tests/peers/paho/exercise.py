"""One paho-mqtt scenario against a running gateway: exercise.py SCENARIO VERSION TRANSPORT.

VERSION is 3.1.1 or 5, TRANSPORT is tcp or websockets, always over TLS. The environment names the gateway:
PORT, CA, USERNAME, PASSWORD, SCOPE (a prefix for topics and client identifiers). Exits 0 if the scenario held.
"""

import os
import queue
import socket
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

DEADLINE = 20  # seconds, for every single answer
SCENARIO, VERSION, TRANSPORT = sys.argv[1:4]
V5 = VERSION == "5"
SCOPE = os.environ["SCOPE"]


def topic(name):
    return f"{SCOPE}/{name}"


def properties(kind, **values):
    result = Properties(kind)
    for name, value in values.items():
        setattr(result, name, value)
    return result


class Peer:
    """A client whose callbacks feed queues, so that every scenario reads from top to bottom."""

    def __init__(self, name, session=False, will=None, connect_properties=None):
        extra = {} if V5 else {"clean_session": not session}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{SCOPE}-{name}" if name else "",
            protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311,
            transport=TRANSPORT,
            reconnect_on_failure=False,
            **extra,
        )
        self.session = session
        self.connect_properties = connect_properties or {}
        self.messages, self.subscribed, self.disconnected = queue.Queue(), queue.Queue(), queue.Queue()
        self.unsubscribed, self.connected = queue.Queue(), queue.Queue()
        client = self.client
        client.username_pw_set(os.environ["USERNAME"], os.environ["PASSWORD"])
        client.tls_set(ca_certs=os.environ["CA"])
        if TRANSPORT == "websockets":
            client.ws_set_options(path="/mqtt")
        if will:
            client.will_set(*will)
        client.on_connect = lambda c, u, flags, code, props: self.connected.put((flags, code, props))
        client.on_message = lambda c, u, message: self.messages.put(message)
        client.on_subscribe = lambda c, u, mid, codes, props: self.subscribed.put(codes)
        client.on_unsubscribe = lambda c, u, mid, codes, props: self.unsubscribed.put(codes)
        client.on_disconnect = lambda c, u, flags, code, props: self.disconnected.put(code)

    def connect(self):
        arguments = {}
        if V5:
            if self.session:
                self.connect_properties.setdefault("SessionExpiryInterval", 3600)
            arguments = {
                "clean_start": not self.session,
                "properties": properties(PacketTypes.CONNECT, **self.connect_properties),
            }
        self.client.connect("localhost", int(os.environ["PORT"]), 60, **arguments)
        self.client.loop_start()
        flags, code, props = self.connected.get(timeout=DEADLINE)
        assert not code.is_failure, code
        self.connack = props
        self.session_present = flags.session_present
        return self

    def subscribe(self, *arguments, **named):
        result, _ = self.client.subscribe(*arguments, **named)
        assert result == mqtt.MQTT_ERR_SUCCESS
        return self.subscribed.get(timeout=DEADLINE)

    def publish(self, name, payload, qos=0, retain=False, **values):
        props = properties(PacketTypes.PUBLISH, **values) if values else None
        info = self.client.publish(topic(name), payload, qos, retain, props)
        info.wait_for_publish(DEADLINE)
        assert info.is_published()

    def message(self):
        return self.messages.get(timeout=DEADLINE)

    def payloads(self, count):
        return [self.message().payload.decode() for _ in range(count)]

    def vanish(self):
        """Ends the connection without DISCONNECT."""
        with socket.socket(fileno=os.dup(self.client.socket().fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        self.disconnected.get(timeout=DEADLINE)
        self.client.loop_stop()

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def every_qos_arrives_in_order_once():
    subscriber = Peer("sub").connect()
    publisher = Peer("pub").connect()
    for qos in (0, 1, 2):
        subscriber.subscribe(topic(f"q{qos}"), qos)
        wanted = [f"{qos}-{n}" for n in range(200)]
        infos = [publisher.client.publish(topic(f"q{qos}"), text, qos) for text in wanted]
        for info in infos:
            info.wait_for_publish(DEADLINE)
        assert subscriber.payloads(200) == wanted
    publisher.publish("q2", "end", 2)
    assert subscriber.payloads(1) == ["end"], "nothing came twice"


def a_retained_message_is_kept_and_cleared():
    publisher = Peer("pub").connect()
    publisher.publish("kept", "value", 1, retain=True)
    first = Peer("first").connect()
    first.subscribe(topic("kept"), 1)
    message = first.message()
    assert message.retain and message.payload == b"value"
    publisher.publish("kept", None, 1, retain=True)
    second = Peer("second").connect()
    second.subscribe([(topic("kept"), 1), (topic("end"), 1)])
    publisher.publish("end", "end", 1)
    assert second.payloads(1) == ["end"]


def the_will_follows_a_broken_connection_and_no_clean_one():
    watcher = Peer("watcher").connect()
    watcher.subscribe(topic("will/#"), 1)
    Peer("clean", will=(topic("will/clean"), "clean", 1)).connect().leave()
    Peer("broken", will=(topic("will/broken"), "broken", 1)).connect().vanish()
    assert watcher.payloads(1) == ["broken"]


def a_session_is_resumed_with_its_queue():
    subscriber = Peer("session", session=True).connect()
    assert not subscriber.session_present
    subscriber.subscribe([(topic("queue/one"), 1), (topic("queue/two"), 2)])
    subscriber.vanish()
    publisher = Peer("pub").connect()
    for n in range(20):
        publisher.publish("queue/one", f"one {n}", 1)
        publisher.publish("queue/two", f"two {n}", 2)
    again = Peer("session", session=True).connect()
    assert again.session_present
    payloads = again.payloads(40)
    for name in ("one", "two"):
        assert [p for p in payloads if p.startswith(name)] == [f"{name} {n}" for n in range(20)]
    again.leave()


def an_unsubscribed_filter_is_silent():
    subscriber = Peer("sub").connect()
    subscriber.subscribe([(topic("off"), 1), (topic("on"), 1)])
    subscriber.client.unsubscribe(topic("off"))
    subscriber.unsubscribed.get(timeout=DEADLINE)
    publisher = Peer("pub").connect()
    publisher.publish("off", "off", 1)
    publisher.publish("on", "on", 1)
    assert subscriber.payloads(1) == ["on"]


def large_messages_pass_both_ways():
    subscriber = Peer("sub").connect()
    subscriber.subscribe(topic("large"), 1)
    payload = bytes(range(256)) * 2000
    Peer("pub").connect().publish("large", payload, 1)
    assert subscriber.message().payload == payload


def many_threads_publish_and_nothing_is_lost():
    subscriber = Peer("sub").connect()
    subscriber.subscribe(topic("many/#"), 1)
    publishers = [Peer(f"pub{n}").connect() for n in range(8)]

    def work(n):
        for i in range(100):
            publishers[n].client.publish(topic(f"many/{n}"), str(i), 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    seen = {}
    for _ in range(800):
        message = subscriber.message()
        seen.setdefault(message.topic, []).append(int(message.payload))
    assert all(seen[topic(f"many/{n}")] == list(range(100)) for n in range(8)), seen


def v5_properties_and_identifiers_arrive():
    subscriber = Peer("sub").connect()
    for name, identifier in (("props/+", 3), ("props/#", 268_435_455)):
        subscriber.subscribe(
            topic(name),
            options=SubscribeOptions(qos=1),
            properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier),
        )
    Peer("pub").connect().publish(
        "props/a",
        "payload",
        1,
        UserProperty=[("b", "1"), ("a", "2"), ("b", "3")],
        ContentType="text/plain",
        ResponseTopic="answer/here",
        CorrelationData=b"\x00\xff",
        PayloadFormatIndicator=1,
        MessageExpiryInterval=1000,
    )
    # Overlapping subscriptions may come as one message or as one for each.
    identifiers = []
    while len(identifiers) < 2:
        props = subscriber.message().properties
        identifiers += props.SubscriptionIdentifier
        assert props.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")]
        assert props.ContentType == "text/plain" and props.ResponseTopic == "answer/here"
        assert props.CorrelationData == b"\x00\xff" and props.PayloadFormatIndicator == 1
        assert 900 < props.MessageExpiryInterval <= 1000
    assert sorted(identifiers) == [3, 268_435_455]


def v5_an_empty_client_identifier_gets_one():
    peer = Peer("").connect()
    assert peer.connack.AssignedClientIdentifier


def v5_a_second_connection_takes_over():
    first = Peer("same", session=True).connect()
    first.subscribe(topic("taken"), 1)
    second = Peer("same", session=True).connect()
    reason = first.disconnected.get(timeout=DEADLINE)
    assert reason.value == 0x8E, reason
    assert second.session_present
    second.publish("taken", "still subscribed", 1)
    assert second.payloads(1) == ["still subscribed"]
    second.leave()


def v5_topic_aliases_go_both_ways():
    subscriber = Peer("sub", connect_properties={"TopicAliasMaximum": 5}).connect()
    subscriber.subscribe(topic("alias/long"), 1)
    publisher = Peer("pub").connect()
    assert publisher.connack.TopicAliasMaximum >= 1
    publisher.publish("alias/long", "first", 1, TopicAlias=1)
    props = properties(PacketTypes.PUBLISH, TopicAlias=1)
    publisher.client.publish("", "second", 1, False, props).wait_for_publish(DEADLINE)
    # paho hands over an empty topic for an alias that it knows.
    assert subscriber.payloads(2) == ["first", "second"]


def v5_no_local_and_retain_handling_hold():
    peer = Peer("self").connect()
    peer.publish("local", "kept", 1, retain=True)
    peer.subscribe(topic("local"), options=SubscribeOptions(qos=1, noLocal=True, retainHandling=2))
    peer.subscribe(topic("end"), 1)
    peer.publish("local", "own", 1)
    peer.publish("end", "end", 1)
    assert peer.payloads(1) == ["end"]


def v5_a_shared_subscription_splits_the_work():
    members = [Peer(f"member{n}").connect() for n in range(2)]
    for member in members:
        member.subscribe(f"$share/{SCOPE}/{topic('work')}", 1)
    publisher = Peer("pub").connect()
    for n in range(100):
        publisher.publish("work", str(n), 1)
    for n, member in enumerate(members):
        member.subscribe(topic(f"end/{n}"), 1)
        publisher.publish(f"end/{n}", "end", 1)
    shares = []
    for member in members:
        share = []
        while (payload := member.message().payload) != b"end":
            share.append(int(payload))
        shares.append(share)
    assert sorted(shares[0] + shares[1]) == list(range(100)), "each message goes to one member"
    assert shares[0] and shares[1], "both members work"


globals()[SCENARIO]()
# Threads of clients that are still connected must not keep the process alive.
sys.stdout.flush()
os._exit(0)
