/* See daemon.h. */
#include "tests/scenario/daemon.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    abort();
}

/* Reads its log until it says ready. */
static void await_ready(int log)
{
    char text[8192];
    size_t size = 0;

    for (;;) {
        const ssize_t got = read(log, text + size, sizeof text - 1 - size);
        need(got > 0, "the daemon did not get ready");
        size += (size_t)got;
        text[size] = '\0';
        if (strstr(text, "event=ready"))
            return;
    }
}

/* What it logs later is read, so that the pipe never fills, and thrown away. */
static void *throw_away(void *log)
{
    const int fd = (int)(intptr_t)log;
    char text[8192];

    while (read(fd, text, sizeof text) > 0)
        ;
    close(fd);
    return NULL;
}

static void run(struct test_daemon *daemon)
{
    const char *build = getenv("IDEMD_BUILD");
    char program[512], data[128];
    int log[2];

    need(build != NULL, "IDEMD_BUILD");
    snprintf(program, sizeof program, "%s/daemon/idemd", build);
    snprintf(data, sizeof data, "%s/data", daemon->folder);
    need(pipe2(log, O_CLOEXEC) == 0, "pipe2");
    daemon->pid = fork();
    if (daemon->pid == 0) {
        dup2(log[1], STDERR_FILENO);
        unsetenv("IDEMD_BUILD"); /* no variable of the daemon's */
        execl(program, "idemd", "--data", data, "--listen", daemon->address, "--grace", "1m", (char *)NULL);
        _exit(127);
    }
    need(daemon->pid > 0, "fork");
    close(log[1]);
    await_ready(log[0]);
    need(fcntl(log[0], F_SETFD, FD_CLOEXEC) == 0, "fcntl");
    pthread_t thread;
    need(pthread_create(&thread, NULL, throw_away, (void *)(intptr_t)log[0]) == 0 && pthread_detach(thread) == 0,
         "pthread_create");
}

void daemon_start(struct test_daemon *daemon)
{
    *daemon = (struct test_daemon){.pid = -1};
    test_folder(daemon->folder);
    snprintf(daemon->address, sizeof daemon->address, "unix:%s/s", daemon->folder);
    run(daemon);
}

void daemon_restart(struct test_daemon *daemon)
{
    kill(daemon->pid, SIGKILL);
    waitpid(daemon->pid, NULL, 0);
    run(daemon);
}

int daemon_stop(struct test_daemon *daemon)
{
    int status = -1;

    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
