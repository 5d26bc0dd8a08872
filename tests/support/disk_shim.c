/* A file system that lacks something: preload it, and say in DISK_SHIM what fails and with which errno, as "lock=95".
   lock: fcntl record locks and flock; shm: mmap of a -shm file; write: pwrite to files of a database. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *what) {
    const char *found = getenv("DISK_SHIM");
    size_t length = strlen(what);
    if (!found || strncmp(found, what, length) || found[length] != '=') return 0;
    return atoi(found + length + 1);
}

static int is_database(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, ".sqlite") != NULL;
}

static int locked(int fd, int command, void *argument) {
    static int (*real)(int, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "fcntl");
    int code = command == F_SETLK || command == F_SETLKW || command == F_GETLK ? fails("lock") : 0;
    if (!code) return real(fd, command, argument);
    errno = code;
    return -1;
}

int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return locked(fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return locked(fd, command, argument);
}

int flock(int fd, int operation) {
    static int (*real)(int, int);
    if (!real) real = dlsym(RTLD_NEXT, "flock");
    int code = fails("flock");
    if (!code) return real(fd, operation);
    errno = code;
    return -1;
}

static void *mapped(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap");
    int code = fd >= 0 && (flags & MAP_SHARED) && is_database(fd) ? fails("shm") : 0;
    if (!code) return real(address, length, protection, flags, fd, offset);
    errno = code;
    return MAP_FAILED;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mapped(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mapped(address, length, protection, flags, fd, offset);
}

static ssize_t written(int fd, const void *bytes, size_t count, off_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite");
    int code = fails("write");
    if (!code) return real(fd, bytes, count, offset);
    errno = code;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return written(fd, bytes, count, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) { return written(fd, bytes, count, offset); }
