/* One table says which characters are not shown as they are. */
#include "proto/text.h"

#include <stdbool.h>
#include <string.h>

/* Unicode 15: category Cc, Zl and Zp, and of Cf what reorders or hides. The joiners U+200C and U+200D stay, since
 * some scripts cannot be written without them. */
static const struct {
    uint32_t first, last;
} harmful[] = {
    {0x00, 0x1f},       /* C0 */
    {0x7f, 0x9f},       /* DEL, C1 */
    {0xad, 0xad},       /* soft hyphen */
    {0x61c, 0x61c},     /* Arabic letter mark */
    {0x180e, 0x180e},   /* Mongolian vowel separator */
    {0x200b, 0x200b},   /* zero width space */
    {0x200e, 0x200f},   /* left-to-right and right-to-left mark */
    {0x2028, 0x202e},   /* line and paragraph separator; embeddings and overrides */
    {0x2060, 0x206f},   /* word joiner, invisible operators; isolates */
    {0xfeff, 0xfeff},   /* byte order mark */
    {0xfff9, 0xfffb},   /* interlinear annotation */
    {0xe0000, 0xe007f}, /* tags */
};

static bool is_harmful(uint32_t code)
{
    for (size_t i = 0; i < sizeof harmful / sizeof harmful[0]; i++)
        if (code >= harmful[i].first && code <= harmful[i].last)
            return true;
    return false;
}

/* How many bytes the character at `at` has; 0 if it is no UTF-8. Source: RFC 3629, section 4. */
static size_t character_bytes(const uint8_t *at, size_t size)
{
    const uint8_t first = *at;
    const size_t bytes = first < 0x80   ? 1
                         : first < 0xc2 ? 0
                         : first < 0xe0 ? 2
                         : first < 0xf0 ? 3
                         : first < 0xf5 ? 4
                                        : 0;
    const uint8_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const uint8_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;

    if (bytes == 0 || bytes > size || (bytes > 1 && (at[1] < least || at[1] > most)))
        return 0;
    for (size_t i = 2; i < bytes; i++)
        if (at[i] < 0x80 || at[i] > 0xbf)
            return 0;
    return bytes;
}

static uint32_t character_code(const uint8_t *at, size_t bytes)
{
    uint32_t code = bytes == 1 ? at[0] : at[0] & (0xff >> (bytes + 1));

    for (size_t i = 1; i < bytes; i++)
        code = code << 6 | (at[i] & 0x3f);
    return code;
}

static size_t put_string(char out[TEXT_CHARACTER_BYTES_MAX], const char *text)
{
    const size_t size = strlen(text);

    memcpy(out, text, size);
    return size;
}

static size_t put_escape(char out[TEXT_CHARACTER_BYTES_MAX], uint32_t code, enum text_form form)
{
    char escape[TEXT_CHARACTER_BYTES_MAX + 1];

    if (form == TEXT_PLAIN && code < 0x80)
        snprintf(escape, sizeof escape, "\\x%02x", code & 0xff);
    else if (code < 0x10000)
        snprintf(escape, sizeof escape, "\\u%04x", code & 0xffff);
    else if (form == TEXT_PLAIN)
        snprintf(escape, sizeof escape, "\\U%08x", code);
    else
        snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd800 | ((code - 0x10000) >> 10 & 0x3ff),
                 0xdc00 | (code & 0x3ff));
    return put_string(out, escape);
}

size_t text_escape(char out[TEXT_CHARACTER_BYTES_MAX], const void *text, size_t size, enum text_form form,
                   size_t *taken)
{
    const uint8_t *at = text;
    const size_t bytes = character_bytes(at, size);
    const uint32_t code = bytes ? character_code(at, bytes) : 0;

    *taken = bytes ? bytes : 1;
    if (bytes == 0)
        return form == TEXT_JSON ? put_string(out, "\xef\xbf\xbd") : (size_t)sprintf(out, "\\x%02x", *at);
    if (code == '\\' || (code == '"' && form == TEXT_JSON)) {
        out[0] = '\\';
        out[1] = (char)code;
        return 2;
    }
    if (is_harmful(code))
        return put_escape(out, code, form);
    memcpy(out, at, bytes);
    return bytes;
}

void text_print(FILE *out, const void *text, size_t size)
{
    const uint8_t *at = text;

    while (size > 0) {
        char escaped[TEXT_CHARACTER_BYTES_MAX];
        size_t taken;
        const size_t written = text_escape(escaped, at, size, TEXT_PLAIN, &taken);

        fwrite(escaped, 1, written, out);
        at += taken;
        size -= taken;
    }
}
