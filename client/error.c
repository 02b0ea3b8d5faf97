/* Errors: one table with the name and class of each, one from the daemon's codes to ours, and the texts of the last one
 * of a client. */
#include "client/client.h"

#include <stdio.h>

static const struct {
    const char *name;
    idem_class class;
} errors[] = {
    [IDEM_OK] = {"IDEM_OK", IDEM_CLASS_OK},
    [IDEM_ERR_MISUSE] = {"IDEM_ERR_MISUSE", IDEM_CLASS_MISUSE},
    [IDEM_ERR_ADDRESS] = {"IDEM_ERR_ADDRESS", IDEM_CLASS_MISUSE},
    [IDEM_ERR_NO_MEMORY] = {"IDEM_ERR_NO_MEMORY", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_UNREACHABLE] = {"IDEM_ERR_UNREACHABLE", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_LOST] = {"IDEM_ERR_LOST", IDEM_CLASS_UNKNOWN},
    [IDEM_ERR_PROTOCOL] = {"IDEM_ERR_PROTOCOL", IDEM_CLASS_UNKNOWN},
    [IDEM_ERR_INVALID_ARGUMENT] = {"IDEM_ERR_INVALID_ARGUMENT", IDEM_CLASS_MISUSE},
    [IDEM_ERR_UNAUTHENTICATED] = {"IDEM_ERR_UNAUTHENTICATED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_PERMISSION_DENIED] = {"IDEM_ERR_PERMISSION_DENIED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_NOT_FOUND] = {"IDEM_ERR_NOT_FOUND", IDEM_CLASS_FINAL},
    [IDEM_ERR_FAILED_PRECONDITION] = {"IDEM_ERR_FAILED_PRECONDITION", IDEM_CLASS_FINAL},
    [IDEM_ERR_RESOURCE_EXHAUSTED] = {"IDEM_ERR_RESOURCE_EXHAUSTED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_DEADLINE_EXCEEDED] = {"IDEM_ERR_DEADLINE_EXCEEDED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_CANCELLED] = {"IDEM_ERR_CANCELLED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_UNIMPLEMENTED] = {"IDEM_ERR_UNIMPLEMENTED", IDEM_CLASS_NOT_DONE},
    [IDEM_ERR_DATA_LOSS] = {"IDEM_ERR_DATA_LOSS", IDEM_CLASS_FINAL},
    [IDEM_ERR_UNAVAILABLE] = {"IDEM_ERR_UNAVAILABLE", IDEM_CLASS_UNKNOWN},
    [IDEM_ERR_INTERNAL] = {"IDEM_ERR_INTERNAL", IDEM_CLASS_UNKNOWN},
    [IDEM_ERR_NOT_STORED] = {"IDEM_ERR_NOT_STORED", IDEM_CLASS_UNKNOWN},
};

/* Codes that no call of this protocol is answered with are missing: they are IDEM_ERR_PROTOCOL. */
static const idem_error of_code[] = {
    [IDEM__V1__CODE__CODE_CANCELLED] = IDEM_ERR_CANCELLED,
    [IDEM__V1__CODE__CODE_INVALID_ARGUMENT] = IDEM_ERR_INVALID_ARGUMENT,
    [IDEM__V1__CODE__CODE_DEADLINE_EXCEEDED] = IDEM_ERR_DEADLINE_EXCEEDED,
    [IDEM__V1__CODE__CODE_NOT_FOUND] = IDEM_ERR_NOT_FOUND,
    [IDEM__V1__CODE__CODE_PERMISSION_DENIED] = IDEM_ERR_PERMISSION_DENIED,
    [IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED] = IDEM_ERR_RESOURCE_EXHAUSTED,
    [IDEM__V1__CODE__CODE_FAILED_PRECONDITION] = IDEM_ERR_FAILED_PRECONDITION,
    [IDEM__V1__CODE__CODE_UNIMPLEMENTED] = IDEM_ERR_UNIMPLEMENTED,
    [IDEM__V1__CODE__CODE_INTERNAL] = IDEM_ERR_INTERNAL,
    [IDEM__V1__CODE__CODE_UNAVAILABLE] = IDEM_ERR_UNAVAILABLE,
    [IDEM__V1__CODE__CODE_DATA_LOSS] = IDEM_ERR_DATA_LOSS,
    [IDEM__V1__CODE__CODE_UNAUTHENTICATED] = IDEM_ERR_UNAUTHENTICATED,
};

static bool known(idem_error error)
{
    return (unsigned)error < sizeof errors / sizeof errors[0];
}

const char *idem_error_name(idem_error error)
{
    return known(error) ? errors[error].name : "unknown error";
}

idem_class idem_error_class(idem_error error)
{
    return known(error) ? errors[error].class : IDEM_CLASS_UNKNOWN;
}

/* Of this thread's last idem_open, which leaves no client to ask. */
static _Thread_local char opening[sizeof((idem_client *)0)->message];

void client_opened(idem_error error, const char *address)
{
    opening[0] = '\0';
    if (error == IDEM_ERR_ADDRESS)
        snprintf(opening, sizeof opening,
                 "%s: an address is written unix:/path, with the whole path, or tcp:host:port, with a port up to 65535",
                 address);
    else if (error == IDEM_ERR_NO_MEMORY)
        snprintf(opening, sizeof opening, "there is no memory for a client");
    else if (error == IDEM_ERR_MISUSE)
        snprintf(opening, sizeof opening, "the options were not made by idem_options_init, or out is NULL");
}

const char *idem_message(const idem_client *client)
{
    return client ? client->message : opening;
}

const char *idem_reason(const idem_client *client)
{
    return client ? client->reason : "";
}

const char *idem_field(const idem_client *client)
{
    return client ? client->field : "";
}

uint32_t idem_retry_after_ms(const idem_client *client)
{
    return client ? client->retry_after_ms : 0;
}

idem_error client_fail(idem_client *client, idem_error error, const char *message)
{
    client->reason[0] = client->field[0] = '\0';
    client->retry_after_ms = 0;
    snprintf(client->message, sizeof client->message, "%s", message ? message : "");
    return error;
}

idem_error client_fail_there(idem_client *client, idem_error error, const char *message)
{
    char text[sizeof client->message];

    snprintf(text, sizeof text, "%s: %s", client->address, message);
    return client_fail(client, error, text);
}

idem_error client_fail_status(idem_client *client, const Idem__V1__Status *status)
{
    const unsigned code = (unsigned)status->code;
    const idem_error error = code < sizeof of_code / sizeof of_code[0] ? of_code[code] : IDEM_OK;

    /* Where there is no connection, all that went wrong is told with the address. */
    if (client->greeting)
        client_fail_there(client, error, status->message);
    else
        client_fail(client, error, status->message);
    snprintf(client->reason, sizeof client->reason, "%s", status->reason);
    snprintf(client->field, sizeof client->field, "%s", status->field);
    client->retry_after_ms = status->retry_after_ms;
    return error == IDEM_OK ? IDEM_ERR_PROTOCOL : error;
}

void client_forget_error(idem_client *client)
{
    client_fail(client, IDEM_OK, NULL);
}
