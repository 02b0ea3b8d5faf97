/* Doubly linked lists whose links lie in their members: a member leaves its list in one step, wherever in it it is, and
 * without knowing which list that is. So whoever frees a member can always take it off first. Loop thread only. */
#ifndef IDEMD_LINK_H
#define IDEMD_LINK_H

#include <stdbool.h>
#include <stddef.h>

/* Embedded in a member, {0}: on no list. Also a list's head, made by links_open; a head does not move. */
struct link {
    struct link *previous, *next;
};

static inline void links_open(struct link *list)
{
    list->previous = list->next = list;
}

/* The first member's link; NULL: the list is empty. */
static inline struct link *links_first(const struct link *list)
{
    return list->next != list ? list->next : NULL;
}

static inline bool link_is_listed(const struct link *link)
{
    return link->next != NULL;
}

/* Puts it at the end of the list. It stays where it is if it is on a list already. */
static inline void link_append(struct link *list, struct link *link)
{
    if (link_is_listed(link))
        return;
    link->previous = list->previous;
    link->next = list;
    list->previous->next = link;
    list->previous = link;
}

/* Takes it off its list. On none: fine. */
static inline void link_remove(struct link *link)
{
    if (!link_is_listed(link))
        return;
    link->previous->next = link->next;
    link->next->previous = link->previous;
    *link = (struct link){0};
}

/* Moves all members of `from` to the end of `list`. */
static inline void links_append(struct link *list, struct link *from)
{
    if (!links_first(from))
        return;
    from->next->previous = list->previous;
    from->previous->next = list;
    list->previous->next = from->next;
    list->previous = from->previous;
    links_open(from);
}

#endif
