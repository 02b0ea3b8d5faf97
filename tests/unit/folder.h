/* Temporary folders for tests in C. */
#ifndef IDEM_TESTS_FOLDER_H
#define IDEM_TESTS_FOLDER_H

enum { TEST_FOLDER_BYTES = 64 };

/* Makes an empty folder below $TMPDIR (/tmp if it is not set or too long for a socket's path) and writes its path.
 * Aborts if it cannot. All folders of a process are removed when it exits with 0. If it ends otherwise they are kept,
 * and where they are is said on stderr. One thread at a time. */
void test_folder(char path[TEST_FOLDER_BYTES]);
/* Removes one before that, because it is large and its test passed. */
void test_folder_remove(const char *path);

#endif
