/* The least that a server can do: read, write the same reply, on epoll. It looks at nothing that it reads.
   Usage: epoll PORT FILE, where FILE holds the whole reply. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char reply[1 << 20], request[1 << 14];
    if (argc != 3) return 64;
    ssize_t length = read(open(argv[2], O_RDONLY), reply, sizeof reply);
    int one = 1, poll = epoll_create1(0), server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (length <= 0 || bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 1024)) return 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = server}, events[512];
    for (epoll_ctl(poll, EPOLL_CTL_ADD, server, &event);;) {
        int count = epoll_wait(poll, events, 512, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == server) {
                event.data.fd = accept4(server, 0, 0, SOCK_NONBLOCK);
                setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
            } else if (read(fd, request, sizeof request) <= 0 || write(fd, reply, length) != length) {
                close(fd);
            }
        }
    }
}
