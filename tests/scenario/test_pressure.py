#!/usr/bin/env python3
"""Peers that push, hold back, go away or come in crowds: what is bounded stays bounded, and nobody else notices."""
import contextlib
import os
import signal
import socket
import struct
import tempfile
import threading
import time
import unittest

from harness import (Case, Client, EXECUTE, INTERRUPTED, PATIENCE, REPLAY, RUNNING, begin, busy_client, complete, frame, op, pb)

HELD = pb.OWNERSHIP_HELD
HOUR_MS = 3600 * 1000


def unknown_fields(count):
    """Fields 2000, 2001, ...: varints, strings and fixed ones in turn."""
    data = b""
    for i in range(count):
        tag = (2000 + i) << 3 | (0, 2, 5, 1)[i % 4]
        varint = bytearray()
        while tag > 127:
            varint.append(tag & 127 | 128)
            tag >>= 7
        varint.append(tag)
        data += bytes(varint) + (b"\x07", b"\x03abc", b"\0\1\2\3", b"\0\1\2\3\4\5\6\7")[i % 4]
    return data


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


class NewerClients(Case):
    """Unknown fields are skipped, at most 16 in a message."""

    def request(self, in_request, in_call, in_op):
        where = op("k").SerializeToString() + unknown_fields(in_op)
        call = field(1, where) + unknown_fields(in_call)
        return pb.Request(id=7).SerializeToString() + bytes([11 << 3 | 2, len(call) & 127 | 128, len(call) >> 7]) + call + \
            unknown_fields(in_request)

    def test_sixteen_in_each_message_are_skipped(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.send_raw(frame(self.request(16, 16, 16)))
        self.assertEqual(client.reply(7).begin.answer, EXECUTE)
        self.assertEqual(client.begin("k").answer, RUNNING)

    def test_one_more_is_refused(self):
        daemon = self.daemon()
        for counts in ((17, 0, 0), (0, 17, 0), (0, 0, 17)):
            with self.subTest(counts):
                client = self.client(daemon)
                client.send_raw(frame(self.request(*counts)))
                self.assertEqual(client._read_one().status.code, pb.CODE_INVALID_ARGUMENT)
        self.assertEqual(self.client(daemon).call(get=pb.GetRequest(op=op("k"))).status.code, pb.CODE_NOT_FOUND)


class Crowds(Case):
    def parked(self, client, count, **call):
        ids = [client.send(**call) for _ in range(count)]
        client.call(get=pb.GetRequest(op=op("no such key")))
        return ids

    def assert_refused(self, reply):
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "TOO_MANY_WAITERS"))
        self.assertTrue(reply.status.message)

    def test_waiters_of_one_operation(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        fence = owner.begin("k").grant.fence
        waiters = [(self.client(daemon), 256) for _ in range(4)]
        ids = [(client, request) for client, count in waiters
               for request in self.parked(client, count, begin=begin("k", wait_ms=60000))]
        self.assertFalse(any(client.has_reply(request) for client, request in ids))
        self.assert_refused(self.client(daemon).call(begin=begin("k", wait_ms=60000)))
        # Who does not wait is answered, and other operations have their own.
        self.assertEqual(owner.begin("k").answer, RUNNING)
        owner.complete("k", fence, b"for all")
        for client, request in ids:
            reply = client.reply(request).begin
            self.assertEqual((reply.answer, reply.outcome.body), (REPLAY, b"for all"))

    def test_waiters_in_all(self):
        daemon = self.daemon("--namespace-share", "100")
        owner = self.client(daemon)
        fences = [owner.begin(f"k{i}", lease_ms=HOUR_MS).grant.fence for i in range(10)]
        crowd = [self.client(daemon) for _ in range(40)]
        ids = [(client, request) for i, client in enumerate(crowd)
               for request in self.parked(client, 250, get=pb.GetRequest(op=op(f"k{i % 10}"), wait_ms=60000))]
        self.assertEqual(len(ids), 10000)
        self.assertFalse(any(client.has_reply(request) for client, request in ids))
        self.assert_refused(owner.call(get=pb.GetRequest(op=op("k0"), wait_ms=60000)))
        # One goes, one may come.
        self.assertTrue(crowd[0].call(cancel=pb.CancelRequest(id=ids[0][1])).cancel.cancelled)
        late = owner.send(get=pb.GetRequest(op=op("k0"), wait_ms=60000))
        self.assert_refused(owner.call(get=pb.GetRequest(op=op("k0"), wait_ms=60000)))
        for i, fence in enumerate(fences):
            self.assertEqual(owner.complete(f"k{i}", fence).ownership, HELD)
        self.assertEqual(owner.reply(late).get.info.state, pb.STATE_DONE)
        for client, request in ids[1:]:
            self.assertEqual(client.reply(request).get.info.state, pb.STATE_DONE)

    def test_bytes_of_parked_requests(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        for i in range(8):
            owner.begin(f"k{i}", lease_ms=HOUR_MS)
        kept = []
        for i in range(8):
            client = self.client(daemon)
            kept += [(client, r) for r in self.parked(client, 140, begin=begin(f"k{i}", wait_ms=60000, input=b"i" * 65536))]
        refused = [client.reply(request) for client, request in kept if client.has_reply(request)]
        # 1,120 of a little over 64 KiB were sent, and 64 MiB are parked at most.
        self.assertGreaterEqual(len(refused), 1120 - 1024)
        self.assertLess(len(refused), 1120 - 1024 + 100)
        for reply in refused:
            self.assert_refused(reply)

    def test_more_open_calls_than_one_may_have(self):
        daemon = self.daemon()
        client = self.client(daemon)
        data = b"".join(frame(pb.Request(id=i + 1, begin=begin(f"k{i}"))) for i in range(5000))
        sender = threading.Thread(target=client.send_raw, args=(data,))
        sender.start()
        fences = [client.reply(i + 1).begin.grant.fence for i in range(5000)]
        sender.join()
        # It is read no further meanwhile; nothing is refused, and the order is kept.
        self.assertEqual(fences, sorted(set(fences)))
        self.assertGreater(fences[0], 0)

    def test_one_who_sends_and_never_reads(self):
        daemon = self.daemon()
        other = self.client(daemon)
        other.complete("k", other.begin("k").grant.fence, os.urandom(4000))
        body = other.begin("k").outcome.body
        greedy = self.client(daemon)
        before = daemon.rss_kib()
        count = 30000  # 120 MB of answers
        data = b"".join(frame(pb.Request(id=i + 1, begin=begin("k"))) for i in range(count))
        sender = threading.Thread(target=greedy.send_raw, args=(data,))
        sender.start()
        for i in range(300):
            self.assertEqual(other.begin(f"other{i}").answer, EXECUTE)
        self.assertTrue(sender.is_alive(), "it is read no further")
        self.assertLess(daemon.rss_kib() - before, 40 * 1024)
        for i in range(count):
            self.assertEqual(greedy.reply(i + 1).begin.outcome.body, body)
        sender.join()

    def test_descriptors_run_out_without_spinning(self):
        daemon = self.daemon(limit_files=40)
        clients = [Client(daemon)]
        self.assertEqual(clients[0].begin("open", bind_to_connection=True).answer, EXECUTE)
        clients += [busy_client(daemon, "open") for _ in range(79)]
        try:
            def noticed():
                return sum("no_descriptors" in line for line in daemon.log)

            self.until(noticed, "it notices")
            first, before, began = noticed(), daemon.cpu_seconds(), time.monotonic()
            # It tries again, now and then.
            self.until(lambda: noticed() >= first + 2, "it tries again")
            passed = time.monotonic() - began
            self.assertLess(daemon.cpu_seconds() - before, passed / 4)
            self.assertEqual(clients[0].begin("k").answer, EXECUTE)
        finally:
            for client in clients[:70]:
                client.close()
        self.assertEqual([client.begin("k").answer for client in clients[70:]], [RUNNING] * 10)
        for client in clients[70:]:
            client.close()


class Vanishing(Case):
    """Peers that have more open calls than one may have, and are gone while the answers are on their way. The daemon is stopped while
    they send, so that afterwards it finds all that at once; and its data is in memory, so that many flushes end while it reads."""

    def setUp(self):
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = tempfile.mkdtemp(prefix="idemd-", dir=memory)
        self.server = self.daemon(folder=folder, listen=["unix:" + os.path.join(folder, "s"), "tcp:127.0.0.1:0"])
        self.begun = 0
        # A log that has had to grow has room for many batches.
        client = self.client(self.server)
        for i in range(60):
            client.complete(f"large{i}", client.begin(f"large{i}").grant.fence, b"l" * 500000)

    def peer(self, address=0):
        return self.client(self.server, hello=pb.HelloRequest(client="gone"), address=self.server.addresses[address])

    def stop(self):
        def stopped():
            with open(f"/proc/{self.server.process.pid}/stat") as stat:
                return " T " in stat.read()

        self.server.process.send_signal(signal.SIGSTOP)
        self.until(stopped, "it stops")

    def go_on(self):
        self.server.process.send_signal(signal.SIGCONT)

    def push(self, client, input_bytes=0):
        """Sends as many Begins as the socket takes: without an input more than may be open, with a large one a batch that is flushed."""
        self.begun += 1
        data = b"".join(frame(pb.Request(id=i + 2, begin=begin(f"{self.begun}-{i}", input=b"i" * input_bytes)))
                        for i in range(1600 if input_bytes == 0 else 250))
        client.socket.setblocking(False)
        try:
            while data:
                data = data[client.socket.send(data):]
        except BlockingIOError:
            pass
        client.socket.settimeout(PATIENCE)

    def assert_well(self):
        self.assertEqual(self.client(self.server).begin("good").answer, EXECUTE)
        self.assertEqual(self.client(self.server).begin("good").answer, RUNNING)
        self.assertIsNone(self.server.process.poll())

    def test_replaced_between_two_flushes(self):
        peers = [self.peer() for _ in range(40)]
        # The daemon may look at them in the order in which they sent, or from the last to the first.
        replaced, replacing = [peers[0], peers[-1]], [self.client(self.server), self.client(self.server)]
        for new in replacing:
            new.call(stats=pb.StatsRequest())
        self.stop()
        self.push(replaced[0])
        for peer in peers[1:20]:
            self.push(peer, 1000)
        for old, new in zip(replaced, replacing):
            new.send(hello=pb.HelloRequest(replaces=old.hello.connection))
        for peer in peers[20:-1]:
            self.push(peer, 1000)
        self.push(replaced[1])
        self.go_on()
        for old, new in zip(replaced, replacing):
            with contextlib.suppress(ConnectionResetError):
                old.at_end()
            self.assertEqual(new.reply(2).hello.server, old.hello.server)
        self.assert_well()

    @staticmethod
    def reset(client):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def replace(self, client):
        self.client(self.server, hello=pb.HelloRequest(replaces=client.hello.connection))

    def crowd(self, ways):
        """Peers of which each has pushed and goes in another way as soon as it has the first answer."""
        peers = [self.peer(i // 2 % 2) for i in range(48)]
        self.stop()
        for i, peer in enumerate(peers):
            self.push(peer, i % 2 * 1000)
        self.go_on()
        for i, peer in enumerate(peers):
            peer._read_one()
            ways[i // 4 % len(ways)](peer)

    def test_gone_in_every_way(self):
        self.crowd([Client.close, self.reset, lambda client: client.socket.shutdown(socket.SHUT_WR), self.replace])
        self.assert_well()

    def test_gone_while_it_drains(self):
        peers = [self.peer(i // 2 % 2) for i in range(48)]
        self.stop()
        for i, peer in enumerate(peers):
            self.push(peer, i % 2 * 1000)
        self.server.process.send_signal(signal.SIGTERM)
        self.go_on()
        for i, peer in enumerate(peers):
            [Client.close, self.reset][i // 4 % 2](peer)
        self.assertEqual(self.server.wait(), 0, "".join(self.server.log))


class UnreadAnswers(Case):
    """Peers that never read large answers cost no more than the daemon has to spare; who reads is not disturbed."""
    PEERS = 150

    def test_the_slowest_readers_go_first(self):
        daemon = self.daemon("--max-memory", "400MiB")
        good = self.client(daemon)
        bodies = [os.urandom(1 << 20) for _ in range(8)]
        for i, body in enumerate(bodies):
            good.complete(f"k{i}", good.begin(f"k{i}").grant.fence, body)

        def stat(name):
            return sum(m.value for m in good.call(stats=pb.StatsRequest()).stats.metrics if m.name == "idemd_" + name)

        # From then on each answer is in memory of its own.
        self.until(lambda: stat("tail_bytes") < 3 << 20, "they are in the tables")
        peers = []
        for i in range(self.PEERS):
            peers.append(self.client(daemon))
            for _ in range(4):
                peers[-1].send(begin=begin(f"k{i % 8}"))
            self.assertEqual(good.begin(f"k{i % 8}").outcome.body, bodies[i % 8])
            # A quarter of what may be used, and what one turn adds.
            self.assertLess(stat("buffered_bytes"), 120 << 20)
        dropped = stat("readers_dropped_total")
        self.assertGreater(dropped, 0)
        self.assertLess(dropped, self.PEERS)
        self.assertTrue(any("slow_readers_dropped" in line for line in daemon.log))
        with contextlib.suppress(ConnectionResetError):
            peers[0].at_end()
        # The last one has lost nothing yet.
        self.assertEqual(peers[-1].reply(4).begin.outcome.body, bodies[(self.PEERS - 1) % 8])


class GoneConnections(Case):
    def test_half_closed_with_parked_calls(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        fence = owner.begin("k").grant.fence
        client = self.client(daemon)
        parked = client.send(begin=begin("k", wait_ms=60000))
        other = client.send(begin=begin("other"))
        client.socket.shutdown(socket.SHUT_WR)
        # Its waits end without an answer; other open calls are answered; then it is closed.
        self.assertTrue(client.at_end())
        self.assertEqual(client.replies[other].begin.answer, EXECUTE)
        self.assertNotIn(parked, client.replies)
        owner.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_NONE))
        self.assertEqual(owner.call(get=pb.GetRequest(op=op("k"))).status.code, pb.CODE_NOT_FOUND)

    def test_a_late_half_of_a_replaced_connection_does_nothing(self):
        daemon = self.daemon()
        old = self.client(daemon, hello=pb.HelloRequest())
        late = frame(pb.Request(id=50, begin=begin("late")))
        old.send_raw(late[:len(late) - 3])
        new = self.client(daemon, hello=pb.HelloRequest(replaces=old.hello.connection))
        try:
            old.send_raw(late[len(late) - 3:])
        except OSError:
            pass  # closed already
        self.assertIsNone(self.end_of(old))
        self.assertEqual(new.call(get=pb.GetRequest(op=op("late"))).status.code, pb.CODE_NOT_FOUND)

    @staticmethod
    def end_of(client):
        try:
            return client._read_one()
        except ConnectionResetError:
            return None

    def test_replacing_what_is_no_connection(self):
        daemon = self.daemon()
        first = self.client(daemon, hello=pb.HelloRequest())
        for replaces in (1, first.hello.connection + 1000, (1 << 64) - 1):
            client = self.client(daemon)
            self.assertEqual(client.call(hello=pb.HelloRequest(replaces=replaces)).status.code, pb.CODE_OK)
        self.assertEqual(first.begin("k").answer, EXECUTE)

    def test_a_connection_does_not_replace_itself_away(self):
        daemon = self.daemon()
        names = [self.client(daemon, hello=pb.HelloRequest()).hello.connection for _ in range(3)]
        self.assertEqual(len(set(names)), 3)
        client = self.client(daemon)
        client.send(hello=pb.HelloRequest(replaces=names[0]))
        self.assertEqual(client.begin("k").answer, EXECUTE)


class Bound(Case):
    """bind_to_connection: the lease is cut to the grace when the connection's input ends."""

    GRACE_MS = 3000

    def setUp(self):
        self.d = self.daemon("--grace", "3s")
        self.other = self.client(self.d)

    def left(self, key):
        return self.other.call(get=pb.GetRequest(op=op(key))).get.info.lease_left_ms

    def worker(self, key="k", **fields):
        client = self.client(self.d, hello=pb.HelloRequest())
        grant = client.begin(key, lease_ms=HOUR_MS, bind_to_connection=True, **fields).grant
        self.assertGreater(self.left(key), HOUR_MS // 2)
        return client, grant.fence

    def cut(self, key="k"):
        self.until(lambda: self.left(key) <= self.GRACE_MS, "the lease is cut")

    def test_closed(self):
        client, fence = self.worker()
        client.close()
        self.cut()
        # The owner's word still counts, on any connection; it has the full lease again.
        self.assertEqual(self.other.call(renew=pb.RenewRequest(op=op("k"), fence=fence)).renew.ownership, HELD)
        self.assertGreater(self.left("k"), HOUR_MS // 2)

    def test_then_it_is_interrupted(self):
        client, fence = self.worker()
        client.close()
        self.assertEqual(self.other.begin("k", wait_ms=60000).answer, INTERRUPTED)
        self.assertEqual(self.other.complete("k", fence, b"late").ownership, HELD)

    def test_half_closed_is_the_end_of_its_input(self):
        client, _ = self.worker()
        client.socket.shutdown(socket.SHUT_WR)
        self.cut()

    def test_closed_by_the_daemon(self):
        client, _ = self.worker()
        client.send_raw(b"\x01\0\0\0\0")
        self.assertTrue(client.at_end())
        self.cut()

    def test_never_longer_than_what_was_left(self):
        client = self.client(self.d)
        client.begin("k", lease_ms=1000, bind_to_connection=True)
        client.close()
        self.assertLessEqual(self.left("k"), 1000)

    def test_a_replacing_connection_takes_it_over(self):
        client, _ = self.worker()
        new = self.client(self.d, hello=pb.HelloRequest(replaces=client.hello.connection))
        self.assertTrue(client.at_end())
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        new.close()
        self.cut()

    def test_replaced_after_its_end_it_has_the_full_lease_again(self):
        client, _ = self.worker()
        client.close()
        self.cut()
        new = self.client(self.d, hello=pb.HelloRequest(replaces=client.hello.connection))
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        new.close()
        self.cut()

    def test_a_hello_that_was_not_answered_loses_nothing(self):
        client, _ = self.worker()
        client.close()
        self.cut()
        # Its client knows only the first connection's number, however many answers are lost; and one of those may still be open.
        for close in (True, False):
            lost = self.client(self.d)
            lost.send(hello=pb.HelloRequest(replaces=client.hello.connection))
            self.until(lambda: self.left("k") > HOUR_MS // 2, "the lease is full again")
            if close:
                lost.close()
                self.cut()
        new = self.client(self.d, hello=pb.HelloRequest(replaces=client.hello.connection))
        lost.close()
        self.other.call(get=pb.GetRequest(op=op("k")))
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        new.close()
        self.cut()

    def test_a_renew_elsewhere_takes_it_over(self):
        client, fence = self.worker()
        second = self.client(self.d)
        self.assertEqual(second.call(renew=pb.RenewRequest(op=op("k"), fence=fence)).renew.ownership, HELD)
        client.close()
        self.other.call(get=pb.GetRequest(op=op("k")))
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        second.close()
        self.cut()

    def test_a_resumed_begin_elsewhere_takes_it_over(self):
        attempt = os.urandom(16)
        client, fence = self.worker(attempt_id=attempt)
        second = self.client(self.d)
        again = second.begin("k", attempt_id=attempt, lease_ms=HOUR_MS, bind_to_connection=True).grant
        self.assertEqual((again.fence, again.resumed), (fence, True))
        client.close()
        self.other.call(get=pb.GetRequest(op=op("k")))
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        second.close()
        self.cut()

    def test_over_a_restart_the_grace_counts_from_being_ready(self):
        attempt = os.urandom(16)
        self.worker(attempt_id=attempt)
        self.worker("kept", attempt_id=attempt)
        self.d.kill()
        self.d.start()
        self.other = self.client(self.d)
        self.assertLessEqual(self.left("k"), self.GRACE_MS)
        again = self.other.begin("kept", attempt_id=attempt, lease_ms=HOUR_MS, bind_to_connection=True)
        self.assertEqual((again.answer, again.grant.resumed), (EXECUTE, True))
        self.assertGreater(self.left("kept"), HOUR_MS // 2)
        self.assertEqual(self.other.begin("k", wait_ms=60000).answer, INTERRUPTED)

    def test_bound_by_recover(self):
        fence = self.other.begin("k").grant.fence
        self.other.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_UNKNOWN))
        client = self.client(self.d)
        got = client.call(recover=pb.RecoverRequest(namespace="test", lease_ms=HOUR_MS, bind_to_connection=True)).recover
        self.assertEqual(len(got.operations), 1)
        self.assertGreater(self.left("k"), HOUR_MS // 2)
        client.close()
        self.cut()


class LongTurns(Case):
    """Leases and waits end late, never early, also where others make the turns of the loop long. Only what is too early fails."""

    KEYS = 40

    def make_noise(self, noise, name, stop):
        """Writes much and reads what comes, until it is told to stop. It takes only so much of the store."""
        body = bytes(30000)
        calls = 0
        while not stop.is_set():
            sent = [noise.next_id + i for i in range(60)]
            noise.next_id += 60
            noise.send_raw(b"".join(frame(pb.Request(id=number, begin=begin(f"{name}-{(calls + i) % 2500}", namespace="noise", input=body)))
                                    for i, number in enumerate(sent)))
            calls += 60
            for number in sent:
                noise.reply(number)

    def test_no_lease_and_no_wait_is_too_short(self):
        daemon = self.daemon()
        owner, waiter = self.client(daemon), self.client(daemon)
        stop = threading.Event()
        noises = [threading.Thread(target=self.make_noise, args=(self.client(daemon), name, stop)) for name in ("a", "b")]
        for thread in noises:
            thread.start()
        try:
            waiting = {}  # request: when the other was sent, and how many seconds it is to last
            for i in range(self.KEYS):
                sent = time.monotonic()
                self.assertEqual(owner.begin(f"k{i}", lease_ms=1000).answer, EXECUTE)
                taking = begin(f"k{i}", if_interrupted=pb.IF_INTERRUPTED_TAKE_OVER, wait_ms=60000)
                waiting[waiter.send(begin=taking)] = (sent, 1.0)
                for _ in range(5):
                    sent = time.monotonic()
                    waiting[waiter.send(get=pb.GetRequest(op=op(f"k{i}"), wait_ms=200))] = (sent, 0.2)
            while waiting:
                response = waiter._read_one()
                sent, least = waiting.pop(response.id)
                self.assertGreaterEqual(time.monotonic() - sent, least)
        finally:
            stop.set()
            for thread in noises:
                thread.join()


class Stalled(Case):
    def test_a_stopped_daemon_takes_no_lease_away(self):
        daemon = self.daemon()
        owner, other = self.client(daemon), self.client(daemon)
        fence = owner.begin("k", lease_ms=1000).grant.fence
        lasts_until = time.monotonic() + 1.2
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            # The owner renews in time; the daemon does not get to read it before the lease would be over.
            renew = owner.send(renew=pb.RenewRequest(op=op("k"), fence=fence))
            begun = other.send(begin=begin("k"))
            self.until(lambda: time.monotonic() > lasts_until, "the lease is over")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        self.assertEqual(owner.reply(renew).renew.ownership, HELD)
        self.assertEqual(other.reply(begun).begin.answer, RUNNING)
        self.until(lambda: any("event=stalled" in line for line in daemon.log), "it says so")

    def test_a_lease_is_longer_by_the_stall(self):
        daemon = self.daemon()
        owner, other = self.client(daemon), self.client(daemon)
        fence = owner.begin("k", lease_ms=2000).grant.fence
        lasts_until = time.monotonic() + 3
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            self.until(lambda: time.monotonic() > lasts_until, "the lease is over")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        # Nobody renewed, but nobody could have.
        self.assertEqual(other.begin("k").answer, RUNNING)
        self.assertEqual(owner.call(renew=pb.RenewRequest(op=op("k"), fence=fence)).renew.ownership, HELD)


if __name__ == "__main__":
    unittest.main()
