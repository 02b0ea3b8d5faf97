/* Showing text that came from elsewhere. A key, an owner or a message is chosen by somebody else, and a terminal obeys
 * some of what it is shown: it clears the screen, changes its title, or shows characters in another order than they are
 * in. So everything from elsewhere is escaped before it is written for a person. */
#ifndef IDEM_TEXT_H
#define IDEM_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum text_form {
    TEXT_PLAIN, /* for a person: \xNN is a byte, \uNNNN or \UNNNNNNNN a character, and a backslash is doubled */
    TEXT_JSON,  /* the inside of a JSON string: a byte that is no UTF-8 becomes U+FFFD */
};

enum { TEXT_CHARACTER_BYTES_MAX = 12 };

/* Escapes the first character of text into `out`, where it can do no harm, and returns how many bytes it wrote there.
 * *taken is how many bytes of text that character has; it is 1 if they are no UTF-8. `size` is not 0.
 *
 * These are escaped: controls (C0, DEL and C1), bytes that are no UTF-8, line and paragraph separators, what changes
 * the direction of writing, and what cannot be seen at all. */
size_t text_escape(char out[TEXT_CHARACTER_BYTES_MAX], const void *text, size_t size, enum text_form form,
                   size_t *taken);

/* Writes all of text to a stream, escaped as TEXT_PLAIN. */
void text_print(FILE *out, const void *text, size_t size);

#endif
