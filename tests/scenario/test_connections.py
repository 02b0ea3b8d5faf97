#!/usr/bin/env python3
"""The socket's side: frames that are none, slow and half-closed peers, replaced connections, limits, starting and stopping."""
import os
import signal
import socket
import struct
import subprocess
import time
import unittest

from harness import (Case, Client, EXECUTE, IDEMD, INTERRUPTED, PATIENCE, REPLAY, RUNNING, begin, busy_client, complete, frame, op, pb)


class Frames(Case):
    def refused(self, daemon, data, word):
        client = self.client(daemon)
        client.send_raw(data)
        self.assertTrue(client.at_end())
        status = client.replies[0].status
        self.assertEqual(status.code, pb.CODE_INVALID_ARGUMENT)
        self.assertIn(word, status.message)

    def test_what_is_no_frame(self):
        daemon = self.daemon()
        bystander = self.client(daemon)
        waits = bystander.send(get=pb.GetRequest(op=op("k"), wait_ms=60000)) if bystander.begin("k").answer == EXECUTE else None
        self.refused(daemon, struct.pack(">BI", 1, 0), "flag")
        self.refused(daemon, struct.pack(">BI", 0, 1 << 31), "max_frame_bytes")
        self.refused(daemon, struct.pack(">BI", 0, (1 << 20) + 256 * 1024 + 1), "max_frame_bytes")
        self.refused(daemon, struct.pack(">BI", 0, 4) + b"\xff\xff\xff\xff", "")
        self.refused(daemon, frame(pb.Request(id=0, get=pb.GetRequest(op=op("k")))), "id")
        self.refused(daemon, frame(b""), "")
        self.assertFalse(bystander.has_reply(waits))
        self.assertEqual(bystander.begin("k").answer, RUNNING)

    def test_what_is_no_request(self):
        daemon = self.daemon()
        client = self.client(daemon)
        two = pb.Request(id=7, get=pb.GetRequest(op=op("k"))).SerializeToString() + pb.Request(
            begin=begin("k")).SerializeToString()
        client.send_raw(frame(two))
        self.assertEqual(client.reply(7).status.code, pb.CODE_INVALID_ARGUMENT)
        client.send_raw(frame(pb.Request(id=8).SerializeToString() + b"\xfa\x3f\x01x"))
        self.assertEqual(client.reply(8).status.code, pb.CODE_UNIMPLEMENTED)
        zero = pb.Request(id=9, begin=begin("a\0b")).SerializeToString()
        client.send_raw(frame(zero))
        status = client.reply(9).status
        self.assertEqual((status.code, status.field), (pb.CODE_INVALID_ARGUMENT, "begin.op.key"))
        for i, (key, good) in enumerate((("k" * 255, True), ("k" * 256, False), ("", False))):
            client.send_raw(frame(pb.Request(id=20 + i, begin=begin(key))))
            reply = client.reply(20 + i)
            self.assertEqual(reply.status.code, pb.CODE_OK if good else pb.CODE_INVALID_ARGUMENT)
            self.assertEqual(reply.status.field, "" if good else "begin.op.key")

    def test_one_byte_at_a_time(self):
        daemon = self.daemon()
        client = self.client(daemon)
        for i in range(3):
            for byte in frame(pb.Request(id=i + 1, begin=begin(f"k{i}"))):
                client.send_raw(bytes([byte]))
        self.assertEqual([client.reply(i + 1).begin.answer for i in range(3)], [EXECUTE] * 3)

    def test_half_a_frame_ends(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.send_raw(frame(pb.Request(id=1, begin=begin("k")))[:9])
        self.assertTrue(client.at_end())
        self.assertIn("10 s", client.replies[0].status.message)

    def test_half_close_is_answered(self):
        daemon = self.daemon()
        client = self.client(daemon)
        ids = [client.send(begin=begin(f"k{i}")) for i in range(100)]
        client.socket.shutdown(socket.SHUT_WR)
        self.assertEqual([client.reply(i).begin.answer for i in ids], [EXECUTE] * 100)
        self.assertTrue(client.at_end())


class Peers(Case):
    def test_slow_reader(self):
        daemon = self.daemon()
        client = self.client(daemon)
        body = os.urandom(1 << 20)
        fence = client.begin("k").grant.fence
        client.complete("k", fence, body)
        slow = self.client(daemon)
        before = daemon.rss_kib()
        requests = b"".join(frame(pb.Request(id=i + 1, begin=begin("k"))) for i in range(300))
        slow.send_raw(requests)
        # Others are not disturbed, and the daemon does not pile up 300 MiB.
        for i in range(50):
            self.assertEqual(client.begin(f"other{i}").answer, EXECUTE)
        self.assertLess(daemon.rss_kib() - before, 100 * 1024)
        for i in range(300):
            self.assertEqual(slow.reply(i + 1).begin.outcome.body, body)

    def test_replaced_connection(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        fence = owner.begin("k").grant.fence
        old = self.client(daemon, hello=pb.HelloRequest(client="old"))
        old.send(begin=begin("k", wait_ms=60000))
        old.call(get=pb.GetRequest(op=op("k")))
        new = self.client(daemon, hello=pb.HelloRequest(replaces=old.hello.connection))
        self.assertTrue(old.at_end())
        self.assertEqual(old.replies, {})
        owner.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_NONE))
        self.assertEqual(new.begin("k").answer, EXECUTE)
        self.assertEqual(new.call(hello=pb.HelloRequest()).status.code, pb.CODE_FAILED_PRECONDITION)

    def test_a_waiter_that_is_gone_is_never_owner(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        fence = owner.begin("k").grant.fence
        gone = Client(daemon)
        gone.send(begin=begin("k", wait_ms=60000))
        gone.call(get=pb.GetRequest(op=op("k")))
        gone.close()
        owner.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_NONE))
        self.assertEqual(owner.begin("k").answer, EXECUTE)

    def test_bound_to_its_connection(self):
        daemon = self.daemon("--grace", "0s")
        worker = self.client(daemon, hello=pb.HelloRequest())
        worker.begin("k", lease_ms=3600 * 1000, bind_to_connection=True)
        worker.begin("kept", lease_ms=3600 * 1000)
        client = self.client(daemon, hello=pb.HelloRequest(replaces=worker.hello.connection))
        self.assertEqual(client.begin("k").answer, RUNNING)
        client.close()
        other = self.client(daemon)
        self.assertEqual(other.begin("k", wait_ms=60000).answer, INTERRUPTED)
        self.assertEqual(other.begin("kept").answer, RUNNING)

    def test_deadline_and_cancel(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.begin("k")
        reply = client.call(timeout_ms=50, begin=begin("k", wait_ms=60000))
        self.assertEqual(reply.status.code, pb.CODE_DEADLINE_EXCEEDED)
        self.assertEqual(client.begin("k", wait_ms=50).answer, RUNNING)
        parked = client.send(begin=begin("k", wait_ms=60000))
        self.assertTrue(client.call(cancel=pb.CancelRequest(id=parked)).cancel.cancelled)
        self.assertEqual(client.reply(parked).status.code, pb.CODE_CANCELLED)
        self.assertFalse(client.call(cancel=pb.CancelRequest(id=parked)).cancel.cancelled)

    def test_limits_on_waiters(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.begin("k")
        ids = [client.send(get=pb.GetRequest(op=op("k"), wait_ms=60000)) for _ in range(257)]
        status = client.reply(ids[256]).status
        self.assertEqual((status.code, status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "TOO_MANY_WAITERS"))
        self.assertFalse(client.has_reply(ids[255]))

    def test_tcp_on_loopback(self):
        daemon = self.daemon(listen=["tcp:127.0.0.1:0", "tcp:[::1]:0"] if socket.has_ipv6 and os.path.exists(
            "/proc/net/if_inet6") else ["tcp:127.0.0.1:0"])
        for address in daemon.addresses:
            client = self.client(daemon, address=address)
            self.assertEqual(client.begin(address).answer, EXECUTE)
        fence = client.begin("k").grant.fence
        client.complete("k", fence, b"x" * 500000)
        self.assertEqual(self.client(daemon).begin("k").outcome.body, b"x" * 500000)

    def test_descriptors_run_out(self):
        daemon = self.daemon(limit_files=40)
        clients = [Client(daemon)]
        self.assertEqual(clients[0].begin("open", bind_to_connection=True).answer, EXECUTE)
        clients += [busy_client(daemon, "open") for _ in range(98)]  # the kernel accepts them; the daemon cannot all
        clients.append(Client(daemon))
        self.until(lambda: any("no_descriptors" in line for line in daemon.log), "it notices")
        before = daemon.cpu_seconds()
        self.assertEqual(clients[0].begin("k").answer, EXECUTE)
        for client in clients[:90]:
            client.close()
        # Those that waited in the backlog are served.
        self.assertEqual(clients[99].begin("k2").answer, EXECUTE)
        self.assertLess(daemon.cpu_seconds() - before, 5)
        for client in clients[90:]:
            client.close()


    def test_idle_connections_make_room(self):
        daemon = self.daemon(limit_files=40)
        waits, bound, idle = self.client(daemon), self.client(daemon), self.client(daemon)
        self.assertEqual(bound.begin("k", lease_ms=3600 * 1000, bind_to_connection=True).answer, EXECUTE)
        asked = waits.send(get=pb.GetRequest(op=op("k"), wait_ms=60000))
        self.assertEqual(waits.call(get=pb.GetRequest(op=op("other"))).status.code, pb.CODE_NOT_FOUND)
        self.assertEqual(idle.begin("before").answer, EXECUTE)
        silent = [self.client(daemon) for _ in range(100)]
        # Every newcomer is served, while those stay. Who said nothing goes first.
        for i in range(50):
            self.assertEqual(self.client(daemon).begin(f"new{i}").answer, EXECUTE)
        self.assertTrue(silent[0].at_end())
        closed = [m.value for m in self.client(daemon).call(stats=pb.StatsRequest()).stats.metrics
                  if m.name == "idemd_idle_closed_total"]
        self.assertGreaterEqual(closed[0], 100 + 50 - 40)
        self.assertTrue(any("idle_closed" in line for line in daemon.log))
        # What is open or bound stays.
        self.assertEqual(waits.call(get=pb.GetRequest(op=op("other"))).status.code, pb.CODE_NOT_FOUND)
        self.assertNotIn(asked, waits.replies)
        self.assertEqual(bound.begin("k").answer, RUNNING)
        self.assertTrue(idle.at_end())


class Memory(Case):
    def test_unfinished_frames_cost_those_who_send_them(self):
        # 300 peers send most of a frame and stop: more than the daemon keeps for that. The largest have to go, and a call of
        # somebody else is taken all the same.
        daemon = self.daemon()
        client = self.client(daemon)
        fence = client.begin("k").grant.fence
        part = struct.pack(">BI", 0, 1 << 20) + b"\0" * 920000
        greedy = [self.client(daemon) for _ in range(300)]
        for peer in greedy:
            try:
                peer.send_raw(part)
            except OSError:
                pass  # gone already
        self.assertEqual(client.complete("k", fence, os.urandom(1 << 20)).ownership, pb.OWNERSHIP_HELD)
        buffered = [m.value for m in client.call(stats=pb.StatsRequest()).stats.metrics if m.name == "idemd_buffered_bytes"]
        self.assertLessEqual(buffered[0], 256 << 20)
        self.assertGreater(buffered[0], 128 << 20)


class StartingAndStopping(Case):
    def run_daemon(self, *options):
        return subprocess.run([IDEMD, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=PATIENCE)

    def test_second_daemon(self):
        daemon = self.daemon()
        second = self.run_daemon("--data", daemon.data, "--listen", "unix:" + daemon.folder + "/other")
        self.assertEqual(second.returncode, 75)
        self.assertIn(b"another daemon", second.stderr)
        taken = self.run_daemon("--data", daemon.folder + "/data2", "--listen", "unix:" + daemon.socket)
        self.assertEqual(taken.returncode, 69)
        self.assertEqual(self.client(daemon).begin("k").answer, EXECUTE)

    def test_not_ours(self):
        daemon = self.daemon()
        os.mkdir(daemon.folder + "/home")
        open(daemon.folder + "/home/letter", "w").close()
        other = self.run_daemon("--data", daemon.folder + "/home", "--listen", "unix:" + daemon.folder + "/x")
        self.assertEqual(other.returncode, 65)
        self.assertEqual(os.listdir(daemon.folder + "/home"), ["letter"])
        self.assertEqual(self.run_daemon("--nonsense").returncode, 64)
        self.assertEqual(self.run_daemon("--lease", "1ms").returncode, 64)
        remote = self.run_daemon("--data", daemon.folder + "/d", "--listen", "tcp:192.0.2.1:4336")
        self.assertIn(remote.returncode, (64, 78))

    def test_stale_socket_and_empty_start(self):
        daemon = self.daemon()
        daemon.kill()
        self.assertTrue(os.path.exists(daemon.socket))
        daemon.start()
        self.assertEqual(self.client(daemon).begin("k").answer, EXECUTE)

    def test_drain(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.begin("k")
        parked = client.send(begin=begin("k", wait_ms=60000))
        client.call(get=pb.GetRequest(op=op("k")))
        self.assertEqual(daemon.terminate(), 0)
        self.assertEqual(client.reply(parked).status.code, pb.CODE_UNAVAILABLE)
        self.assertTrue(client.at_end())
        self.assertFalse(os.path.exists(daemon.socket))
        daemon.start()
        self.assertEqual(self.client(daemon).begin("k").answer, RUNNING)

    def test_drain_with_no_descriptors_left(self):
        daemon = self.daemon(limit_files=30)
        reader = Client(daemon)
        fence = reader.begin("k").grant.fence
        reader.complete("k", fence, os.urandom(1 << 20))
        for i in range(20):
            reader.send(begin=begin("k"))  # never read: the daemon drains for as long as it may
        self.assertEqual(reader.begin("open").answer, EXECUTE)
        crowd = [busy_client(daemon, "open") for _ in range(60)]
        self.until(lambda: any("no_descriptors" in line for line in daemon.log), "it notices")
        before, lines = daemon.cpu_seconds(), len(daemon.log)
        daemon.process.send_signal(signal.SIGTERM)
        self.until(lambda: any("event=draining" in line for line in daemon.log), "it drains")
        end = time.monotonic() + 1.5
        self.until(lambda: time.monotonic() > end or daemon.process.poll() is not None, "it goes on draining")
        self.assertLess(len(daemon.log) - lines, 50)
        if daemon.process.poll() is None:
            self.assertLess(daemon.cpu_seconds() - before, 1)
        self.assertEqual(daemon.wait(), 0)
        for client in [reader] + crowd:
            client.close()

    def test_check_data(self):
        daemon = self.daemon()
        client = self.client(daemon)
        fence = client.begin("k", input=b"i" * 5000).grant.fence
        client.begin("open", input=b"i" * 5000)
        client.complete("k", fence, b"b" * 9000)
        self.assertEqual(self.run_daemon("--check-data", daemon.data).returncode, 75)
        daemon.terminate()
        checked = self.run_daemon("--check-data", daemon.data)
        self.assertEqual((checked.returncode, checked.stderr), (0, b""))
        self.assertIn(b"1 unfinished, 1 finished", checked.stdout)
        path = os.path.join(daemon.data, "store", "data.mdb")
        with open(path, "r+b") as data:
            content = data.read()
            at = content.rindex(b"b" * 100)
            data.seek(at)
            data.write(b"X")
        checked = self.run_daemon("--check-data", daemon.data)
        self.assertEqual(checked.returncode, 65)
        self.assertIn(b"key k", checked.stdout)
        daemon.start()
        client = self.client(daemon)
        status = client.call(begin=begin("k")).status
        self.assertEqual(status.code, pb.CODE_DATA_LOSS)
        self.assertEqual(client.begin("open").answer, RUNNING)
        # Nobody can learn its revision: any will do to forget it.
        self.assertEqual(client.call(get=pb.GetRequest(op=op("k"))).status.code, pb.CODE_DATA_LOSS)
        self.assertEqual(client.call(forget=pb.ForgetRequest(op=op("k"), revision=1)).forget.ownership, pb.OWNERSHIP_HELD)
        self.assertEqual(client.begin("k").answer, EXECUTE)


if __name__ == "__main__":
    unittest.main()
