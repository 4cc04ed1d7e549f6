/* What reaches the files of the message store, in which order, and what if it fails? Stands between a program and the
 * C library for messages.db and its write-ahead log; everything else passes untouched.
 *
 * DISK_SHIM_LOG   file to which every change is appended: a head (struct entry) and, for a write, its bytes. The lock
 *                 makes the order of the entries the order of the effects. An entry is there before the call returns.
 * DISK_SHIM_FAIL  while this file exists, what it names fails: "sync", "write" (both EIO) or "full" (ENOSPC).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct entry {
  uint8_t kind; /* W write, S sync, T truncate, U unlink */
  uint8_t file; /* 0 messages.db, 1 messages.db-wal */
  uint8_t zero[6];
  uint64_t place;  /* of a write; the length of a truncation */
  uint64_t length; /* of the bytes that follow */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -2;

static int ends_with(const char *text, size_t length, const char *end) {
  size_t wanted = strlen(end);
  return length >= wanted && memcmp(text + length - wanted, end, wanted) == 0;
}

static int file_of_path(const char *path) {
  size_t length = strlen(path);
  /* A new store is built under another name and renamed when it is complete. */
  if (ends_with(path, length, "/messages.db") || ends_with(path, length, "/messages.db.new")) return 0;
  if (ends_with(path, length, "/messages.db-wal") || ends_with(path, length, "/messages.db.new-wal")) return 1;
  return -1;
}

static int file_of(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return -1;
  path[length] = 0;
  return file_of_path(path);
}

static void note(char kind, int file, uint64_t place, const void *bytes, uint64_t length) {
  if (log_fd == -2) {
    const char *path = getenv("DISK_SHIM_LOG");
    log_fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  }
  if (log_fd < 0) return;
  struct entry entry = {.kind = kind, .file = file, .place = place, .length = length};
  struct iovec parts[2] = {{&entry, sizeof entry}, {(void *)bytes, length}};
  ssize_t done = syscall(SYS_writev, log_fd, parts, length ? 2 : 1);
  if (done != (ssize_t)(sizeof entry + length)) abort();
}

static int fails(const char *what) {
  const char *path = getenv("DISK_SHIM_FAIL");
  if (!path) return 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char named[16] = {0};
  ssize_t length = read(fd, named, sizeof named - 1);
  close(fd);
  return length >= (ssize_t)strlen(what) && memcmp(named, what, strlen(what)) == 0;
}

static int write_fails(void) {
  if (fails("write")) return EIO;
  if (fails("full")) return ENOSPC;
  return 0;
}

static ssize_t place_write(int fd, const void *bytes, size_t count, off64_t place, int seeks) {
  int file = file_of(fd);
  if (file < 0)
    return seeks ? syscall(SYS_write, fd, bytes, count) : syscall(SYS_pwrite64, fd, bytes, count, place);
  pthread_mutex_lock(&lock);
  ssize_t done = -1;
  int error = write_fails();
  if (error) {
    errno = error;
  } else {
    if (seeks) place = lseek64(fd, 0, SEEK_CUR);
    done = seeks ? syscall(SYS_write, fd, bytes, count) : syscall(SYS_pwrite64, fd, bytes, count, place);
    if (done > 0) note('W', file, place, bytes, done);
  }
  error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *bytes, size_t count) { return place_write(fd, bytes, count, 0, 1); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t place) { return place_write(fd, bytes, count, place, 0); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t place) { return place_write(fd, bytes, count, place, 0); }

static int sync_file(int fd, long call) {
  int file = file_of(fd);
  if (file < 0) return syscall(call, fd);
  pthread_mutex_lock(&lock);
  int result = -1, error = EIO;
  if (!fails("sync")) {
    result = syscall(call, fd);
    error = errno;
    if (result == 0) note('S', file, 0, 0, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

int ftruncate64(int fd, off64_t length) {
  int file = file_of(fd);
  if (file < 0) return syscall(SYS_ftruncate, fd, length);
  pthread_mutex_lock(&lock);
  int result = -1, error = write_fails();
  if (!error) {
    result = syscall(SYS_ftruncate, fd, length);
    error = errno;
    if (result == 0) note('T', file, length, 0, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int unlink(const char *path) {
  int file = file_of_path(path);
  pthread_mutex_lock(&lock);
  int result = syscall(SYS_unlink, path);
  int error = errno;
  if (file >= 0 && result == 0) note('U', file, 0, 0, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
