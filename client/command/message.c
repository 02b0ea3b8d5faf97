/* Messages by their descriptors, so that a field that the protocol gains is an option, a line and a JSON member without
 * a line here.
 *
 * Options: a field's name with dashes. Times that end in _ms lose that and are durations, but for moments, which are
 * Unix time in ms. A bool takes no value. Enum values are written in lower case without their prefix. Bytes are taken
 * as they are; "hex:00ff" is hex, "@FILE" a file's content ("@-" standard input). Replies print bytes the same way, so
 * that what was printed can be given. */
#include "client/command/command.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/text.h"

enum { VALUE_BYTES_MAX = 64 * 1024 * 1024, NAME_CHARS = 64 };

static void *field_at(const ProtobufCMessage *message, size_t offset)
{
    return (char *)(uintptr_t)message + offset;
}

static bool ends_in(const char *text, const char *end)
{
    const size_t size = strlen(text), end_size = strlen(end);

    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

/* A moment, not a length of time. */
static bool is_moment(const char *name)
{
    static const char *const moments[] = {"first_sent_ms",  "now_ms",  "begun_ms",
                                          "interrupted_ms", "done_ms", "expires_ms"};

    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++)
        if (strcmp(name, moments[i]) == 0)
            return true;
    return false;
}

static bool is_duration(const ProtobufCFieldDescriptor *field)
{
    return ends_in(field->name, "_ms") && !is_moment(field->name);
}

/* The option of a field: lease_ms -> lease, attempt_id -> attempt-id. */
static void option_name(const ProtobufCFieldDescriptor *field, char name[NAME_CHARS])
{
    snprintf(name, NAME_CHARS, "%s", field->name);
    if (is_duration(field))
        name[strlen(name) - 3] = '\0';
    for (char *at = name; *at; at++)
        if (*at == '_')
            *at = '-';
    if (strcmp(field->name, "other_fingerprints") == 0)
        strcpy(name, "other-fingerprint"); /* given once for each */
    if (strcmp(field->name, "attributes") == 0)
        strcpy(name, "attribute");
}

/* ---- Reading values --------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static const char *read_hex(const char *text, ProtobufCBinaryData *data)
{
    const size_t size = strlen(text);

    if (size % 2)
        return "hex has two digits a byte";
    data->data = command_need(malloc(size / 2 + 1));
    data->len = size / 2;
    for (size_t i = 0; i < data->len; i++) {
        const int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return "not hex";
        data->data[i] = (uint8_t)(high << 4 | low);
    }
    return NULL;
}

static const char *read_file(const char *path, ProtobufCBinaryData *data)
{
    const int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return strerror(errno);
    data->data = command_read_all(fd, VALUE_BYTES_MAX, &data->len);
    const int failed = errno;
    if (fd != STDIN_FILENO)
        close(fd);
    return data->data ? NULL : strerror(failed);
}

static const char *read_bytes(const char *text, ProtobufCBinaryData *data)
{
    if (strncmp(text, "hex:", 4) == 0)
        return read_hex(text + 4, data);
    if (text[0] == '@')
        return read_file(text + 1, data);
    *data = (ProtobufCBinaryData){strlen(text), (uint8_t *)command_need(strdup(text))};
    return NULL;
}

static const char *read_number(const char *text, uint64_t most, uint64_t *number)
{
    char *end;

    errno = 0;
    *number = strtoull(text, &end, 10);
    return !isdigit((unsigned char)*text) || *end || errno || *number > most ? "not a number, or too large" : NULL;
}

static const char *read_signed(const char *text, int32_t *number)
{
    char *end;

    errno = 0;
    const long value = strtol(text, &end, 10);
    *number = (int32_t)value;
    return !*text || *end || errno || value != *number ? "not a number of 32 bits" : NULL;
}

/* "IF_INTERRUPTED_TAKE_OVER" of enum IfInterrupted -> "take-over". */
static void enum_word(const ProtobufCEnumDescriptor *descriptor, const char *name, char word[NAME_CHARS])
{
    char prefix[NAME_CHARS];
    size_t size = 0;

    for (const char *at = descriptor->short_name; *at && size < NAME_CHARS - 2; at++) {
        if (isupper((unsigned char)*at) && at != descriptor->short_name)
            prefix[size++] = '_';
        prefix[size++] = (char)toupper((unsigned char)*at);
    }
    prefix[size++] = '_';
    if (strncmp(name, prefix, size) == 0)
        name += size;
    for (size = 0; name[size] && size < NAME_CHARS - 1; size++)
        word[size] = name[size] == '_' ? '-' : (char)tolower((unsigned char)name[size]);
    word[size] = '\0';
}

/* "report|take-over". Returns how long that is. */
static size_t enum_words(const ProtobufCEnumDescriptor *descriptor, char *words, size_t words_bytes)
{
    size_t size = 0;

    words[0] = '\0';
    for (unsigned i = 0; i < descriptor->n_values; i++) {
        char word[NAME_CHARS];
        enum_word(descriptor, descriptor->values[i].name, word);
        if (strcmp(word, "unspecified") != 0 && words_bytes - size > NAME_CHARS)
            size += (size_t)snprintf(words + size, words_bytes - size, "%s%s", size ? "|" : "", word);
    }
    return size;
}

static const char *read_enum(const ProtobufCEnumDescriptor *descriptor, const char *text, uint32_t *number)
{
    static char wrong[256];

    for (unsigned i = 0; i < descriptor->n_values; i++) {
        char word[NAME_CHARS];
        enum_word(descriptor, descriptor->values[i].name, word);
        if (strcmp(word, text) == 0) {
            *number = (uint32_t)descriptor->values[i].value;
            return NULL;
        }
    }
    memcpy(wrong, "one of ", 7);
    enum_words(descriptor, wrong + 7, sizeof wrong - 7);
    return wrong;
}

/* In most fields 0 means that nothing is said, so that a 0 that is given would become something else in silence. */
static bool may_be_zero(const char *name)
{
    return strcmp(name, "wait_ms") == 0 || strcmp(name, "body_bytes") == 0;
}

static const char *read_count(const ProtobufCFieldDescriptor *field, const char *text, uint64_t most, uint64_t *number)
{
    const char *wrong = is_duration(field) ? command_duration(text, most, number) : read_number(text, most, number);

    return wrong || *number || may_be_zero(field->name) ? wrong : "not 0";
}

static const char *set_scalar(const ProtobufCFieldDescriptor *field, void *at, const char *value)
{
    uint64_t number;
    const char *wrong = NULL;

    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = command_need(strdup(value));
        return NULL;
    case PROTOBUF_C_TYPE_BYTES:
        return read_bytes(value, at);
    case PROTOBUF_C_TYPE_ENUM:
        return read_enum(field->descriptor, value, at);
    case PROTOBUF_C_TYPE_SINT32:
        return read_signed(value, at);
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = true;
        return NULL;
    case PROTOBUF_C_TYPE_UINT32:
        if (!(wrong = read_count(field, value, UINT32_MAX, &number)))
            *(uint32_t *)at = (uint32_t)number;
        return wrong;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return read_count(field, value, UINT64_MAX, at);
    default:
        return "cannot be given here";
    }
}

/* name=value */
static const char *set_attribute(ProtobufCMessage *attribute, const char *value)
{
    const char *equals = strchr(value, '=');

    if (!equals || equals == value)
        return "write it as NAME=BYTES";
    char *name = command_need(strndup(value, (size_t)(equals - value)));
    const ProtobufCFieldDescriptor *fields = attribute->descriptor->fields;
    *(char **)field_at(attribute, fields[0].offset) = name;
    return read_bytes(equals + 1, field_at(attribute, fields[1].offset));
}

static ProtobufCMessage *new_message(const ProtobufCMessageDescriptor *descriptor)
{
    ProtobufCMessage *message = command_need(calloc(1, descriptor->sizeof_message));

    descriptor->message_init(message);
    return message;
}

static const char *append(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, const char *value)
{
    size_t *count = field_at(message, field->quantifier_offset);
    void **array = field_at(message, field->offset);

    if (field->type == PROTOBUF_C_TYPE_BYTES) {
        ProtobufCBinaryData *all = command_need(realloc(*array, (*count + 1) * sizeof *all));
        *array = all;
        return read_bytes(value, &all[(*count)++]);
    }
    assert(field->type == PROTOBUF_C_TYPE_MESSAGE);
    ProtobufCMessage **all = command_need(realloc(*array, (*count + 1) * sizeof(void *)));
    *array = all;
    all[*count] = new_message(field->descriptor);
    return set_attribute(all[(*count)++], value);
}

/* *known: it has such a field, itself or in a message within. */
static const char *set_field(ProtobufCMessage *message, const char *name, const char *value, bool *known)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        char option[NAME_CHARS];

        if (field->type == PROTOBUF_C_TYPE_MESSAGE && field->label != PROTOBUF_C_LABEL_REPEATED) {
            ProtobufCMessage **inner = field_at(message, field->offset);
            ProtobufCMessage *tried = *inner ? *inner : new_message(field->descriptor);
            const char *wrong = set_field(tried, name, value, known);
            if (*known)
                *inner = tried;
            else if (!*inner)
                free(tried);
            if (*known)
                return wrong;
            continue;
        }
        option_name(field, option);
        if (strcmp(option, name) != 0)
            continue;
        *known = true;
        return field->label == PROTOBUF_C_LABEL_REPEATED ? append(message, field, value)
                                                         : set_scalar(field, field_at(message, field->offset), value);
    }
    *known = false;
    return NULL;
}

const char *message_set(ProtobufCMessage *message, const char *name, const char *value)
{
    bool known;
    const char *wrong = set_field(message, name, value, &known);

    assert(known);
    return wrong;
}

/* ---- Options ------------------------------------------------------------------------ */

/* What each option means, by its name. */
static const struct meaning field_help[] = {
    {"key", "the idempotency key of the operation, 1 to 255 bytes"},
    {"operation", "what is done, \"POST /charges\"; part of the match"},
    {"fingerprint", "a digest of what is asked for; part of the match"},
    {"other-fingerprint", "a digest by an older rule, which matches too; may be repeated"},
    {"attempt-id", "16 bytes that name this attempt; without it a new one is made"},
    {"owner", "who runs it, for people; by default host and process"},
    {"lease", "how long the grant lasts unless it is renewed; by default the namespace's, or as long as before"},
    {"wait", "how long to wait for the outcome of one that runs, or, recover, for one that is interrupted"},
    {"if-interrupted", "what to do if an owner is gone and nobody knows whether it took effect: say so, or take over"},
    {"first-sent-ms", "when this key was first sent"},
    {"input", "what whoever takes over needs, up to 64 KiB"},
    {"bind-to-connection", "the lease ends soon after the connection does, and that is when this call returns"},
    {"keep", "how long the outcome is given to everyone who asks; by default the namespace's"},
    {"keep-body", "how long its body is kept; by default as long as the outcome"},
    {"take-over-revision", "take over this very interruption only"},
    {"fence", "the fence of the grant that this call is about"},
    {"kind", "how it ended; failed is final too: everyone gets it back"},
    {"code", "the application's code: an HTTP status, an exit status"},
    {"attribute", "one more fact of the outcome, a header for example; may be repeated"},
    {"body", "the outcome itself"},
    {"body-dropped", "the outcome has a body, which is not given"},
    {"body-bytes", "how large that body is"},
    {"attributes-dropped", "the outcome has attributes, which are not given"},
    {"effect", "what is known: it may have had one; this attempt had none; no attempt had one"},
    {"name", "the name of the checkpoint, 1 to 64 bytes"},
    {"data", "what belongs to the checkpoint, up to 64 KiB"},
    {"limit", "how many at most"},
    {"revision", "the revision of the operation that was looked at"},
    {"verdict", "what was found out: it took effect, or it did not and the key is free again"},
    {"reason", "why, for the daemon's log"},
    {"state", "only operations in this state"},
    {"cursor", "go on where the page before ended"},
};

static const char *help_of(const char *name)
{
    for (size_t i = 0; i < sizeof field_help / sizeof field_help[0]; i++)
        if (strcmp(field_help[i].word, name) == 0)
            return field_help[i].text;
    return "";
}

static const char *argument_of(const ProtobufCFieldDescriptor *field, char *words, size_t words_bytes)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return "TEXT";
    case PROTOBUF_C_TYPE_BYTES:
        return "BYTES";
    case PROTOBUF_C_TYPE_BOOL:
        return NULL;
    case PROTOBUF_C_TYPE_ENUM:
        enum_words(field->descriptor, words, words_bytes);
        return words;
    case PROTOBUF_C_TYPE_MESSAGE:
        return "NAME=BYTES";
    default:
        return is_duration(field) ? "D" : is_moment(field->name) ? "TIME" : "N";
    }
}

static size_t add_options(const ProtobufCMessageDescriptor *descriptor, struct option_line *lines, size_t count)
{
    static char names[MESSAGE_OPTIONS_MAX][NAME_CHARS], words[MESSAGE_OPTIONS_MAX][2 * NAME_CHARS];

    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];

        if (field->type == PROTOBUF_C_TYPE_MESSAGE && field->label != PROTOBUF_C_LABEL_REPEATED) {
            count = add_options(field->descriptor, lines, count);
            continue;
        }
        if (strcmp(field->name, "namespace") == 0 || strcmp(field->name, "caller") == 0)
            continue;
        assert(count < MESSAGE_OPTIONS_MAX);
        option_name(field, names[count]);
        lines[count] = (struct option_line){names[count], argument_of(field, words[count], sizeof words[count]),
                                            help_of(names[count]), 0};
        count++;
    }
    return count;
}

size_t message_options(const ProtobufCMessageDescriptor *descriptor, struct option_line lines[MESSAGE_OPTIONS_MAX])
{
    return add_options(descriptor, lines, 0);
}

/* ---- Printing ------------------------------------------------------------------------------ */

static bool is_default(const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return !*(char *const *)at || !**(char *const *)at;
    case PROTOBUF_C_TYPE_BYTES:
        return ((const ProtobufCBinaryData *)at)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        return !*(void *const *)at;
    case PROTOBUF_C_TYPE_BOOL:
        return !*(const protobuf_c_boolean *)at;
    case PROTOBUF_C_TYPE_DOUBLE: {
        uint64_t bits;
        memcpy(&bits, at, sizeof bits);
        return bits == 0;
    }
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return *(const uint64_t *)at == 0;
    default:
        return *(const uint32_t *)at == 0;
    }
}

static const char *enum_name(const ProtobufCFieldDescriptor *field, const void *at)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)at);

    return value ? value->name : NULL;
}

/* How one element lies in a repeated field's array. */
static size_t element_bytes(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : sizeof(void *);
}

static void print_text_bytes(FILE *out, const ProtobufCBinaryData *data)
{
    bool plain = !(data->len >= 4 && memcmp(data->data, "hex:", 4) == 0) && !(data->len && data->data[0] == '@');

    for (size_t i = 0; i < data->len && plain; i++)
        plain = data->data[i] >= ' ' && data->data[i] < 0x7f;
    if (plain) {
        fwrite(data->data, 1, data->len, out);
        return;
    }
    fputs("hex:", out);
    for (size_t i = 0; i < data->len; i++)
        fprintf(out, "%02x", data->data[i]);
}

static void print_number(FILE *out, const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        fprintf(out, "%.17g", *(const double *)at);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)at);
        break;
    case PROTOBUF_C_TYPE_SINT32:
        fprintf(out, "%" PRId32, *(const int32_t *)at);
        break;
    default:
        fprintf(out, "%" PRIu32, *(const uint32_t *)at);
    }
}

static void print_text(FILE *out, const char *prefix, const ProtobufCMessage *message);

static void print_text_value(FILE *out, const char *name, const ProtobufCFieldDescriptor *field, const void *at)
{
    char word[NAME_CHARS];

    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        print_text(out, name, *(ProtobufCMessage *const *)at);
        return;
    }
    fprintf(out, "%s ", name);
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        text_print(out, *(char *const *)at, strlen(*(char *const *)at));
    } else if (field->type == PROTOBUF_C_TYPE_BYTES) {
        print_text_bytes(out, at);
    } else if (field->type == PROTOBUF_C_TYPE_BOOL) {
        fputs("true", out);
    } else if (field->type == PROTOBUF_C_TYPE_ENUM && enum_name(field, at)) {
        enum_word(field->descriptor, enum_name(field, at), word);
        fputs(word, out);
    } else {
        print_number(out, field, at);
    }
    fputc('\n', out);
}

static void print_text(FILE *out, const char *prefix, const ProtobufCMessage *message)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        void *at = field_at(message, field->offset);
        char name[512];

        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", field->name);
            if (!is_default(field, at))
                print_text_value(out, name, field, at);
            continue;
        }
        const size_t count = *(const size_t *)field_at(message, field->quantifier_offset);
        for (size_t k = 0; k < count; k++) {
            snprintf(name, sizeof name, "%s%s%s.%zu", prefix, *prefix ? "." : "", field->name, k);
            print_text_value(out, name, field, *(char **)at + k * element_bytes(field));
        }
    }
}

void message_print_text(FILE *out, const ProtobufCMessage *message)
{
    print_text(out, "", message);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static void print_json_string(FILE *out, const char *text)
{
    size_t left = strlen(text);

    fputc('"', out);
    while (left > 0) {
        char escaped[TEXT_CHARACTER_BYTES_MAX];
        size_t taken;
        fwrite(escaped, 1, text_escape(escaped, text, left, TEXT_JSON, &taken), out);
        text += taken;
        left -= taken;
    }
    fputc('"', out);
}

static void print_base64(FILE *out, const ProtobufCBinaryData *data)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fputc('"', out);
    for (size_t i = 0; i < data->len; i += 3) {
        const size_t left = data->len - i;
        const uint32_t group = (uint32_t)data->data[i] << 16 | (left > 1 ? (uint32_t)data->data[i + 1] << 8 : 0) |
                               (left > 2 ? data->data[i + 2] : 0);
        fputc(digits[group >> 18], out);
        fputc(digits[group >> 12 & 63], out);
        fputc(left > 1 ? digits[group >> 6 & 63] : '=', out);
        fputc(left > 2 ? digits[group & 63] : '=', out);
    }
    fputc('"', out);
}

static void print_json_name(FILE *out, const char *name)
{
    fputc('"', out);
    for (; *name; name++) {
        if (*name == '_' && name[1])
            fputc(toupper((unsigned char)*++name), out);
        else
            fputc(*name, out);
    }
    fputs("\": ", out);
}

static void print_json_value(FILE *out, const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        message_print_json(out, *(ProtobufCMessage *const *)at);
        break;
    case PROTOBUF_C_TYPE_STRING:
        print_json_string(out, *(char *const *)at);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        print_base64(out, at);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        fputs("true", out);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        fputc('"', out); /* 64 bits are strings in this mapping */
        print_number(out, field, at);
        fputc('"', out);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        if (enum_name(field, at)) {
            print_json_string(out, enum_name(field, at));
            break;
        }
        /* fall through */
    default:
        print_number(out, field, at);
    }
}

void message_print_json(FILE *out, const ProtobufCMessage *message)
{
    const char *comma = "";

    fputc('{', out);
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        void *at = field_at(message, field->offset);
        const bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        const size_t count = repeated ? *(const size_t *)field_at(message, field->quantifier_offset) : 0;

        if (repeated ? count == 0 : is_default(field, at))
            continue;
        fputs(comma, out);
        comma = ", ";
        print_json_name(out, field->name);
        if (!repeated) {
            print_json_value(out, field, at);
            continue;
        }
        for (size_t k = 0; k < count; k++) {
            fputs(k ? ", " : "[", out);
            print_json_value(out, field, *(char **)at + k * element_bytes(field));
        }
        fputc(']', out);
    }
    fputc('}', out);
}
