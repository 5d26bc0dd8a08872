/* Shifts the wall clock of a program by OTHER_DAY_SHIFT_S seconds: cc -shared -fPIC -o other_day.so other_day.c, LD_PRELOAD.

   The monotonic clock, and with it every wait, stays. (libfaketime 0.9.10, which Debian has, makes time.sleep() of Python
   3.11 fail when it leaves the monotonic clock alone, and Chromium needs a minute to start under it.) A program that waits
   until a wall-clock time, or sets a file's, gives a shifted one, which is shifted back. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long shift_s(void) {
    static long shift;
    static int known;
    if (!known) {
        const char *given = getenv("OTHER_DAY_SHIFT_S");
        shift = given ? atol(given) : 0;
        known = 1;
    }
    return shift;
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

/* A wall-clock time is told from a monotonic one by its size: no machine runs for a billion seconds. */
static const struct timespec *unshifted(const struct timespec *until, struct timespec *changed) {
    if (until == NULL || until->tv_sec < 1000000000)
        return until;
    *changed = *until;
    changed->tv_sec -= shift_s();
    return changed;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int status = real(clock, now);
    if (!status && is_wall(clock))
        now->tv_sec += shift_s();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    int status = clock_gettime(CLOCK_REALTIME, &precise);
    (void)zone;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return status;
}

time_t time(time_t *stored) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (stored)
        *stored = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    struct timespec changed;
    int is_shifted = (flags & TIMER_ABSTIME) && is_wall(clock);
    return REAL(clock_nanosleep)(clock, flags, is_shifted ? unshifted(until, &changed) : until, left);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec changed;
    return REAL(pthread_cond_timedwait)(condition, mutex, unshifted(until, &changed));
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
    struct timespec changed;
    return REAL(pthread_cond_clockwait)(condition, mutex, clock, unshifted(until, &changed));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec changed;
    return REAL(pthread_mutex_timedlock)(mutex, unshifted(until, &changed));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec changed;
    return REAL(sem_timedwait)(semaphore, unshifted(until, &changed));
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until) {
    struct timespec changed;
    return REAL(sem_clockwait)(semaphore, clock, unshifted(until, &changed));
}

/* --- the times of files --- */

static int seen(int status, struct stat64 *file) {
    if (!status) {
        file->st_atim.tv_sec += shift_s();
        file->st_mtim.tv_sec += shift_s();
        file->st_ctim.tv_sec += shift_s();
    }
    return status;
}

int stat64(const char *restrict path, struct stat64 *restrict file) { return seen(REAL(stat64)(path, file), file); }

int lstat64(const char *restrict path, struct stat64 *restrict file) { return seen(REAL(lstat64)(path, file), file); }

int fstat64(int descriptor, struct stat64 *file) { return seen(REAL(fstat64)(descriptor, file), file); }

int fstatat64(int folder, const char *restrict path, struct stat64 *restrict file, int flags) {
    return seen(REAL(fstatat64)(folder, path, file, flags), file);
}

static const struct timespec *given(const struct timespec times[2], struct timespec changed[2]) {
    if (times == NULL)
        return NULL;
    for (int each = 0; each < 2; each++) {
        changed[each] = times[each];
        if (times[each].tv_nsec != UTIME_NOW && times[each].tv_nsec != UTIME_OMIT)
            changed[each].tv_sec -= shift_s();
    }
    return changed;
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    struct timespec changed[2];
    return REAL(utimensat)(folder, path, given(times, changed), flags);
}

int futimens(int descriptor, const struct timespec times[2]) {
    struct timespec changed[2];
    return REAL(futimens)(descriptor, given(times, changed));
}
