/*
 * A wrong clock, for the processes that are started with this library in LD_PRELOAD: the time of day is ahead by the
 * nanoseconds (negative: behind) that stand, as one 64-bit integer of the machine's own order, in the file that
 * TORTURE_CLOCK names. The file is mapped: a process that runs sees a jump as soon as it is written, as it would see
 * clock_settime(2). Every other clock goes on as it is, as then. So do waits that end at a time of day: there are none
 * in what is tortured (Python, uvloop and OpenSSL wait by the monotonic clock).
 *
 *     cc -shared -fPIC -O2 -o torture_clock.so torture_clock.c
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NANOSECONDS INT64_C(1000000000)

static const volatile int64_t *ahead;

__attribute__((constructor)) static void map_the_file(void) {
    const char *path = getenv("TORTURE_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        ahead = mapped;
}

int clock_gettime(clockid_t which, struct timespec *found) {
    long failed = syscall(SYS_clock_gettime, which, found);
    if (failed != 0 || ahead == NULL || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE))
        return (int)failed;
    int64_t shown = found->tv_sec * NANOSECONDS + found->tv_nsec + *ahead;
    found->tv_sec = shown / NANOSECONDS;
    found->tv_nsec = shown % NANOSECONDS;
    return 0;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *found) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    if (found != NULL)
        *found = now.tv_sec;
    return now.tv_sec;
}
