"""What a client of another make sees: pika drives the broker and compares every answer.

    pika_session.py URL [--memory BYTES]

Ends with 0 if all answers are those expected, with 1 at the first that is not. The expectations are
RabbitMQ's, and the program passes against RabbitMQ too. With `--memory`, the broker at URL blocks
publishers when its messages take more than BYTES: then that is tried as well.
"""

import argparse
import decimal
import sys
import time
import uuid

import pika
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

# What no answer takes on a machine that is busy with everything else, in seconds.
BOUND = 20
PERSISTENT = 2
SCENARIOS = []


class Difference(AssertionError):
    """An answer is not the one expected."""


def expect(what, actual, expected):
    if actual != expected:
        raise Difference(f"{what}: {actual!r}, expected {expected!r}")


def scenario(function):
    SCENARIOS.append(function)
    return function


class Broker:
    """Where the broker is, and the connections one scenario has opened."""

    def __init__(self, url):
        self.url = url
        self.connections = []
        self.run = uuid.uuid4().hex[:8]

    def connect(self, **changes):
        parameters = pika.URLParameters(self.url)
        parameters.socket_timeout = BOUND
        parameters.blocked_connection_timeout = BOUND
        for name, value in changes.items():
            setattr(parameters, name, value)
        connection = pika.BlockingConnection(parameters)
        self.connections.append(connection)
        return connection

    def channel(self):
        """A channel in confirm mode: what was published is in its queues when publish returns."""
        channel = self.connect().channel()
        channel.confirm_delivery()
        return channel

    def name(self, what):
        """A name that no other run uses."""
        return f"foreign-{self.run}-{what}"

    def hang_up(self):
        for connection in self.connections:
            if connection.is_open:
                connection.close()
        self.connections.clear()


def queue(channel, name="", **options):
    """A queue that goes with its connection."""
    return channel.queue_declare(name, exclusive=True, **options).method.queue


def wait_until(connection, what, holds):
    """Lets the connection work until something holds."""
    deadline = time.monotonic() + BOUND
    while not holds():
        if time.monotonic() > deadline:
            raise Difference(f"{what}: not within {BOUND} s")
        connection.process_data_events(time_limit=0.05)


def got(channel, name, auto_ack=True):
    """The body of the next message, if there is one."""
    method, _, body = channel.basic_get(name, auto_ack=auto_ack)
    return body if method else None


def wait_for(channel, name):
    """The next message of a queue, when it is there, with its properties."""
    found = []

    def there():
        method, properties, body = channel.basic_get(name, auto_ack=True)
        if method:
            found.append((method, properties, body))
        return method is not None

    wait_until(channel.connection, f"a message in {name}", there)
    return found[0]


def closed_with(what, code, text, work):
    """Whether the channel is closed with this code, in words that begin with this text."""
    try:
        work()
    except ChannelClosedByBroker as closed:
        expect(f"{what}: code", closed.reply_code, code)
        expect(f"{what}: text", closed.reply_text[: len(text)], text)
        return
    raise Difference(f"{what}: the channel was not closed, expected {code}")


@scenario
def connect(broker):
    connection = broker.connect()
    properties = connection._impl.server_properties
    for capability in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
    ):
        expect(capability, properties["capabilities"][capability], True)
    expect("tuned channel_max", connection._impl.params.channel_max, 2047)
    expect("tuned frame_max", connection._impl.params.frame_max, 131072)
    channels = [connection.channel() for _ in range(5)]
    expect("channel numbers", [it.channel_number for it in channels], [1, 2, 3, 4, 5])
    channels[2].close()
    expect("a number is used again", connection.channel().channel_number, 3)
    connection.update_secret("secret", "because")
    connection.close()
    expect("closed", connection.is_closed, True)


@scenario
def wrong_password_and_vhost(broker):
    user = pika.URLParameters(broker.url).credentials.username
    try:
        broker.connect(credentials=pika.PlainCredentials(user, "wrong"))
        raise Difference("a wrong password was taken")
    except ProbableAuthenticationError as refused:
        text = "Login was refused using authentication mechanism PLAIN."
        expect("the refusal's words", text in str(refused), True)
    try:
        broker.connect(virtual_host="nowhere")
        raise Difference("a virtual host was opened that does not exist")
    except (ConnectionClosedByBroker, ProbableAccessDeniedError) as refused:
        words = "vhost nowhere not found" in str(refused)
        expect("the refusal's words", words, True)


@scenario
def declare(broker):
    channel = broker.channel()
    name = broker.name("declare")
    answer = channel.queue_declare(name).method
    expect("declare-ok", (answer.queue, answer.message_count, answer.consumer_count), (name, 0, 0))
    channel.basic_publish("", name, b"1")
    answer = channel.queue_declare(name, passive=True).method
    expect("passive declare-ok", (answer.message_count, answer.consumer_count), (1, 0))
    made_up = queue(channel)
    expect("a made up name", made_up[:8], "amq.gen-")
    expect("purge-ok", channel.queue_purge(name).method.message_count, 1)
    expect("delete-ok", channel.queue_delete(name).method.message_count, 0)
    closed_with(
        "passive declare of nothing",
        404,
        f"NOT_FOUND - no queue '{name}' in vhost '",
        lambda: channel.queue_declare(name, passive=True),
    )
    channel = broker.channel()
    queue(channel, name)
    closed_with(
        "declare with another argument",
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{name}' in vhost",
        lambda: queue(channel, name, arguments={"x-max-length": 3}),
    )
    channel = channel.connection.channel()
    closed_with(
        "a reserved name",
        403,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        lambda: channel.queue_declare("amq.mine"),
    )


@scenario
def publish_with_confirms(broker):
    channel = broker.channel()
    name = queue(channel)
    for number in range(100):
        channel.basic_publish("", name, b"%d" % number)
    large = bytes(range(256)) * 2000
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="identity",
        headers={
            "text": "ä",
            "small": -3,
            "large": 2**40,
            "decimal": decimal.Decimal("0.5"),
            "truth": True,
            "nothing": None,
            "list": [1, "two", {"three": 3}],
            "table": {"deep": {"deeper": b"\xff"}},
        },
        delivery_mode=PERSISTENT,
        priority=7,
        correlation_id="correlation",
        reply_to="reply",
        expiration="60000",
        message_id="message",
        timestamp=1_700_000_000,
        type="type",
        user_id=pika.URLParameters(broker.url).credentials.username,
        app_id="app",
    )
    channel.basic_publish("", name, large, sent)
    for number in range(100):
        expect("messages in order", got(channel, name), b"%d" % number)
    method, properties, body = channel.basic_get(name, auto_ack=True)
    expect("a body of many frames", body == large, True)
    expect("all properties", vars(properties), vars(sent))
    expect("exchange and key", (method.exchange, method.routing_key), ("", name))
    expect("not redelivered, none left", (method.redelivered, method.message_count), (False, 0))
    closed_with(
        "publish to nowhere",
        404,
        "NOT_FOUND - no exchange 'nowhere' in vhost '",
        lambda: channel.basic_publish("nowhere", name, b""),
    )


@scenario
def mandatory_returns(broker):
    channel = broker.channel()
    channel.basic_publish("", broker.name("nobody"), b"dropped")
    try:
        channel.basic_publish("", broker.name("nobody"), b"back", mandatory=True)
        raise Difference("a message without a queue was not returned")
    except UnroutableError as error:
        (returned,) = error.messages
        expect("body", returned.body, b"back")
        reply = (returned.method.reply_code, returned.method.reply_text)
        expect("return", reply, (312, "NO_ROUTE"))
        expect("routing key", returned.method.routing_key, broker.name("nobody"))


@scenario
def rejected_publishes(broker):
    channel = broker.channel()
    name = queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.basic_publish("", name, b"fits")
    try:
        channel.basic_publish("", name, b"does not")
        raise Difference("a full queue took a message")
    except NackError:
        pass
    expect("what is there", (got(channel, name), got(channel, name)), (b"fits", None))


@scenario
def consume(broker):
    channel = broker.channel()
    name = queue(channel)
    for number in range(10):
        channel.basic_publish("", name, b"%d" % number)
    seen = []

    def on_message(channel, method, properties, body):
        seen.append((method.delivery_tag, method.redelivered, body))
        channel.basic_ack(method.delivery_tag)

    tag = channel.basic_consume(name, on_message)
    wait_until(channel.connection, "ten deliveries", lambda: len(seen) == 10)
    expect("deliveries", seen, [(at + 1, False, b"%d" % at) for at in range(10)])
    answer = channel.queue_declare(name, passive=True).method
    expect("none left, one consumer", (answer.message_count, answer.consumer_count), (0, 1))
    channel.basic_cancel(tag)
    channel.basic_publish("", name, b"to nobody")
    expect("after the cancel", got(channel, name), b"to nobody")
    expect("no more deliveries", len(seen), 10)
    channel.basic_consume(name, on_message, exclusive=True)
    closed_with(
        "a second consumer beside an exclusive one",
        403,
        f"ACCESS_REFUSED - queue '{name}' in vhost '",
        lambda: channel.basic_consume(name, on_message),
    )


@scenario
def nack_and_reject(broker):
    channel = broker.channel()
    name = queue(channel)
    for body in (b"a", b"b", b"c", b"d"):
        channel.basic_publish("", name, body)
    tags = [channel.basic_get(name)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[1], multiple=True, requeue=True)
    channel.basic_reject(tags[2], requeue=False)
    channel.basic_reject(tags[3], requeue=True)
    back = [channel.basic_get(name) for _ in range(4)]
    expect("bodies in their old order", [it[2] for it in back], [b"a", b"b", b"d", None])
    expect("redelivered", [it[0].redelivered for it in back[:3]], [True] * 3)
    channel.basic_recover(requeue=True)
    again = channel.basic_get(name)
    expect("recovered", (again[2], again[0].redelivered), (b"a", True))
    channel.basic_ack(again[0].delivery_tag)
    channel.basic_ack(999)
    closed_with(
        "an ack of nothing",
        406,
        "PRECONDITION_FAILED - unknown delivery tag 999",
        lambda: channel.queue_declare(name, passive=True),
    )


@scenario
def time_to_live(broker):
    channel = broker.channel()
    name = queue(channel, arguments={"x-message-ttl": 50})
    lasting = queue(channel)
    channel.basic_publish("", name, b"soon gone")
    channel.basic_publish("", lasting, b"gone too", pika.BasicProperties(expiration="50"))
    channel.basic_publish("", lasting, b"stays")

    def is_empty(name, messages):
        answer = channel.queue_declare(name, passive=True).method
        return answer.message_count == messages

    wait_until(channel.connection, "the queue's own", lambda: is_empty(name, 0))
    wait_until(channel.connection, "the message's own", lambda: is_empty(lasting, 1))
    expect("what stays", got(channel, lasting), b"stays")
    expiring = broker.name("expiring")
    channel.queue_declare(expiring, arguments={"x-expires": 100})

    # Asking for it would be a use: its going is seen on a channel of a second's time.
    channel.connection.sleep(1)
    closed_with(
        "a queue nobody uses",
        404,
        f"NOT_FOUND - no queue '{expiring}' in vhost '",
        lambda: channel.queue_declare(expiring, passive=True),
    )
    channel = channel.connection.channel()
    channel.confirm_delivery()
    closed_with(
        "an expiration that is no number",
        406,
        "PRECONDITION_FAILED - invalid expiration 'soon': no_integer",
        lambda: channel.basic_publish("", name, b"", pika.BasicProperties(expiration="soon")),
    )


@scenario
def dead_letters(broker):
    channel = broker.channel()
    grave = queue(channel)
    exchange = broker.name("dead")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_bind(grave, exchange)
    to_grave = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "late"}

    def dies(reason, arguments, kill):
        name = queue(channel, arguments={**to_grave, **arguments})
        properties = pika.BasicProperties(headers={"mine": 1})
        channel.basic_publish("", name, b"body", properties)
        kill(name)
        method, properties, body = wait_for(channel, grave)
        expect(f"{reason}: body", body, b"body")
        expect(f"{reason}: address", (method.exchange, method.routing_key), (exchange, "late"))
        headers = properties.headers
        expect(f"{reason}: own header", headers["mine"], 1)
        first = [headers[f"x-first-death-{it}"] for it in ("reason", "queue", "exchange")]
        expect(f"{reason}: first death", first, [reason, name, ""])
        (death,) = headers["x-death"]
        age = time.time() - death.pop("time").timestamp()
        expect(f"{reason}: time", age < 3 * BOUND, True)
        death_expected = {
            "count": 1,
            "reason": reason,
            "queue": name,
            "exchange": "",
            "routing-keys": [name],
        }
        expect(f"{reason}: x-death", death, death_expected)

    def reject(name):
        channel.basic_nack(channel.basic_get(name)[0].delivery_tag, requeue=False)

    dies("rejected", {}, reject)
    dies("expired", {"x-message-ttl": 20}, lambda _: None)
    dies("maxlen", {"x-max-length": 1}, lambda name: channel.basic_publish("", name, b"push"))

    # Twice round: the death is counted.
    waiting, work = queue(channel), broker.name("work")
    queue(
        channel,
        work,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": waiting},
    )
    channel.basic_publish("", work, b"again")
    for count in (1, 2, 3):
        reject(work)
        _, properties, body = wait_for(channel, waiting)
        expect("counted", properties.headers["x-death"][0]["count"], count)
        channel.basic_publish("", work, body, properties)


@scenario
def exclusive(broker):
    mine, other = broker.channel(), broker.channel()
    name = queue(mine)
    closed_with(
        "another connection's exclusive queue",
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost",
        lambda: other.queue_declare(name, passive=True),
    )
    mine.connection.close()
    other = other.connection.channel()
    closed_with(
        "it goes with its connection",
        404,
        f"NOT_FOUND - no queue '{name}' in vhost",
        lambda: other.queue_declare(name, passive=True),
    )


@scenario
def cancel_notification(broker):
    channel, other = broker.channel(), broker.channel()
    name = broker.name("cancelled")
    channel.queue_declare(name)
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = channel.basic_consume(name, lambda *_: None)
    expect("delete-ok", other.queue_delete(name).method.message_count, 0)
    wait_until(channel.connection, "the cancel", lambda: cancelled == [tag])
    expect("consumers", channel.consumer_tags, [])


@scenario
def prefetch(broker):
    channel = broker.channel()
    name = queue(channel)
    for number in range(10):
        channel.basic_publish("", name, b"%d" % number)
    seen = []
    channel.basic_qos(prefetch_count=3)
    channel.basic_consume(name, lambda _, method, __, body: seen.append((method, body)))

    def in_hand(number):
        wait_until(channel.connection, f"{number} deliveries", lambda: len(seen) >= number)
        # Whatever else was on its way would stand before this answer.
        left = channel.queue_declare(name, passive=True).method.message_count
        channel.connection.process_data_events()
        expect("deliveries", (len(seen), left), (number, 10 - number))

    in_hand(3)
    channel.basic_ack(seen[0][0].delivery_tag)
    in_hand(4)
    channel.basic_ack(seen[3][0].delivery_tag, multiple=True)
    in_hand(7)
    expect("in order", [body for _, body in seen], [b"%d" % at for at in range(7)])


@scenario
def get(broker):
    channel = broker.channel()
    name = queue(channel)
    expect("get-empty", channel.basic_get(name), (None, None, None))
    for body in (b"1", b"2", b"3"):
        channel.basic_publish("", name, body)
    method, _, body = channel.basic_get(name)
    expect("get-ok", (body, method.message_count, method.redelivered), (b"1", 2, False))
    channel.close()
    channel = channel.connection.channel()
    method, _, body = channel.basic_get(name)
    expect("after the channel", (body, method.message_count, method.redelivered), (b"1", 2, True))


@scenario
def transactions(broker):
    channel, other = broker.connect().channel(), broker.channel()
    name = broker.name("transactions")
    channel.queue_declare(name, auto_delete=True)
    channel.tx_select()
    channel.basic_publish("", name, b"committed")
    expect("before the commit", got(other, name), None)
    channel.tx_commit()
    channel.basic_publish("", name, b"rolled back")
    channel.tx_rollback()
    method, _, body = channel.basic_get(name)
    expect("what was committed", (body, method.message_count), (b"committed", 0))
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    channel.close()
    expect("its ack was rolled back", got(other, name), b"committed")
    other.queue_delete(name)


@scenario
def exchanges(broker):
    channel = broker.channel()
    topic, headers, direct = (broker.name(it) for it in ("topic", "headers", "direct"))
    channel.exchange_declare(topic, "topic", auto_delete=True)
    channel.exchange_declare(headers, "headers", auto_delete=True)
    spare = broker.name("spare")
    spared = queue(channel)
    channel.exchange_declare(spare, "fanout", auto_delete=True)
    channel.queue_bind(spared, spare)
    channel.exchange_declare(
        direct, "direct", auto_delete=True, arguments={"alternate-exchange": spare}
    )

    one, many, both = queue(channel), queue(channel), queue(channel)
    channel.queue_bind(one, topic, "a.*.c")
    channel.queue_bind(many, topic, "a.#")
    channel.queue_bind(both, topic, "a.*.c")
    channel.queue_bind(both, topic, "#.c")
    for key in ("a.b.c", "a", "a.b.b.c", "b"):
        channel.basic_publish(topic, key, key.encode())

    def contents(name):
        bodies = []
        while (body := got(channel, name)) is not None:
            bodies.append(body)
        return bodies

    expect("a.*.c", contents(one), [b"a.b.c"])
    expect("a.#", contents(many), [b"a.b.c", b"a", b"a.b.b.c"])
    expect("once, for two bindings", contents(both), [b"a.b.c", b"a.b.b.c"])

    every, some = queue(channel), queue(channel)
    wanted = {"kind": "report", "pages": 2}
    channel.queue_bind(every, headers, arguments={"x-match": "all", **wanted})
    channel.queue_bind(some, headers, arguments={"x-match": "any", **wanted})
    for body, sent in ((b"both", wanted), (b"one", {"pages": 2}), (b"none", {"pages": 3})):
        channel.basic_publish(headers, "", body, pika.BasicProperties(headers=sent))
    expect("all", contents(every), [b"both"])
    expect("any", contents(some), [b"both", b"one"])

    bound = queue(channel)
    channel.queue_bind(bound, direct, "here")
    channel.exchange_bind(destination=topic, source=direct, routing_key="a.x.c")
    for key in ("here", "elsewhere", "a.x.c"):
        channel.basic_publish(direct, key, key.encode())
    expect("direct", contents(bound), [b"here"])
    expect("alternate", contents(spared), [b"elsewhere"])
    expect("from exchange to exchange", contents(one), [b"a.x.c"])
    channel.queue_unbind(bound, direct, "here")
    channel.basic_publish(direct, "here", b"unbound")
    expect("after the unbind", (contents(bound), contents(spared)), ([], [b"unbound"]))

    closed_with(
        "declare of another type",
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{topic}' in vhost",
        lambda: channel.exchange_declare(topic, "direct", auto_delete=True),
    )


@scenario
def priorities_and_single_active_consumer(broker):
    channel = broker.channel()
    name = queue(channel, arguments={"x-max-priority": 5})
    for priority in (0, 3, 5, 9, 1):
        properties = pika.BasicProperties(priority=priority)
        channel.basic_publish("", name, b"%d" % priority, properties)
    bodies = [got(channel, name) for _ in range(5)]
    expect("highest first", bodies, [b"5", b"9", b"3", b"1", b"0"])
    name = queue(channel, arguments={"x-single-active-consumer": True})
    seen = []
    tags = [
        channel.basic_consume(name, lambda *it, who=who: seen.append(who), auto_ack=True)
        for who in ("first", "second")
    ]
    for _ in range(3):
        channel.basic_publish("", name, b"")
    wait_until(channel.connection, "three deliveries", lambda: len(seen) == 3)
    channel.basic_cancel(tags[0])
    channel.basic_publish("", name, b"")
    wait_until(channel.connection, "one more", lambda: len(seen) == 4)
    expect("who got them", seen, ["first"] * 3 + ["second"])


def blocked(broker, memory):
    """Publishes above the broker's limit, then empties the queue from another connection."""
    publisher, consumer = broker.connect(), broker.channel()
    heard = []
    publisher.add_on_connection_blocked_callback(
        lambda _, frame: heard.append(("blocked", frame.method.reason))
    )
    publisher.add_on_connection_unblocked_callback(lambda *_: heard.append("unblocked"))
    channel = publisher.channel()
    name = broker.name("blocked")
    channel.queue_declare(name)
    body = bytes(memory // 4)
    sent = 0
    while not heard and sent * len(body) <= memory:
        channel.basic_publish("", name, body)
        sent += 1
        wait = time.monotonic() + 0.2
        while not heard and time.monotonic() < wait:
            publisher.process_data_events(time_limit=0.05)
    wait_until(publisher, "blocked above the limit", lambda: heard)
    expect("heard above the limit", heard, [("blocked", "low on memory")])
    expect("others are served", consumer.queue_declare(name, passive=True).method.queue, name)
    for _ in range(sent):
        method, _, received = wait_for(consumer, name)
        expect("the message", len(received), len(body))
    wait_until(publisher, "unblocked", lambda: heard[1:] == ["unblocked"])
    channel.confirm_delivery()
    channel.basic_publish("", name, b"again")
    expect("after the alarm", got(consumer, name), b"again")
    consumer.queue_delete(name)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("url", metavar="URL")
    arguments.add_argument("--memory", type=int, metavar="BYTES")
    arguments = arguments.parse_args()
    scenarios = list(SCENARIOS)
    if arguments.memory:
        scenarios.append(lambda broker: blocked(broker, arguments.memory))
        scenarios[-1].__name__ = "blocked"
    for run in scenarios:
        broker = Broker(arguments.url)
        try:
            run(broker)
            broker.hang_up()
        except Exception as error:
            print(f"{run.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            if not isinstance(error, Difference):
                raise
            return 1
        print(f"{run.__name__}: as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
