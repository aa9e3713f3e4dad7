/* The executable behind every name in /opt/cni/bin.
 *
 * It takes the call that the container runtime makes (argv[0], the CNI_* variables, standard input), opens the
 * sandbox's network namespace, hands all of it to the agent over a unix socket and prints the agent's answer.
 * The wire, the settings and what happens without an agent are in docs/launcher-protocol.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define SUPPORTED "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"
/* Plugins that need a later version than the first; src/weft/plugins/registry.py says the same (tests compare). */
#define OLDEST {"bandwidth", "0.3.0"}, {"firewall", "0.4.0"}, {"vrf", "0.3.1"}
#define LARGEST_ENVIRONMENT (64u << 10)
#define LARGEST_CONFIGURATION (1u << 20)
#define LARGEST_OUTPUT (4u << 20)
#define SETTINGS_FILE "/etc/weft/launcher.conf"
#define NSFS_MAGIC 0x6e736673
#define PROC_MAGIC 0x9fa0 /* where kernels before 3.19 kept namespaces */
#define WITH_NAMESPACE 1u

/* Error codes of the CNI specification, section 5. */
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, UNDECODABLE = 6, INVALID_CONFIG = 7, TRY_AGAIN = 11, NOT_AVAILABLE = 50 };

static struct {
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char deletions[4096];
    long deadline; /* seconds */
} settings = {"/run/weft/cni.sock", "/var/lib/weft/deletions", 30};

static char configuration[LARGEST_CONFIGURATION + 1];
static size_t configuration_length;
static char environment[LARGEST_ENVIRONMENT];
static size_t environment_length;
static int64_t deadline; /* milliseconds of the monotonic clock */

extern char **environ;

/* ---- Output ---------------------------------------------------------------------------------------------- */

static void write_all(int descriptor, const char *data, size_t length) {
    while (length > 0) {
        ssize_t done = write(descriptor, data, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            _exit(1);
        data += done;
        length -= (size_t)done;
    }
}

/* The length of the UTF-8 sequence at the start of text, 0 where it is none (RFC 3629). */
static size_t utf8_length(const unsigned char *text) {
    if (text[0] < 0x80)
        return 1;
    size_t length = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
        (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

/* Print text as the inside of a JSON string; bytes that are no UTF-8 become U+FFFD. */
static void print_escaped(const char *text) {
    const unsigned char *next = (const unsigned char *)text;
    while (*next) {
        size_t length = utf8_length(next);
        if (length == 0) {
            fputs("\\ufffd", stdout);
            length = 1;
        } else if (*next == '"' || *next == '\\') {
            printf("\\%c", *next);
        } else if (*next < 0x20 || *next == 0x7f) {
            printf("\\u%04x", *next);
        } else {
            fwrite(next, 1, length, stdout);
        }
        next += length;
    }
}

/* The version in which the caller speaks: the first "cniVersion" of its configuration. */
static const char *caller_version(void) {
    static char version[16];
    const char *key = "\"cniVersion\"";
    const char *found = memmem(configuration, configuration_length, key, strlen(key));
    if (found) {
        found += strlen(key);
        found += strspn(found, " \t\r\n:");
        size_t length = *found == '"' ? strspn(found + 1, "0123456789.") : 0;
        if (length > 0 && length < sizeof version && found[1 + length] == '"') {
            memcpy(version, found + 1, length);
            return version;
        }
    }
    return "1.1.0";
}

/* Print an error as the specification wants it, and end. */
__attribute__((format(printf, 2, 3), noreturn)) static void fail(int code, const char *format, ...) {
    char message[8192];
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    printf("{\"cniVersion\": \"%s\", \"code\": %d, \"msg\": \"", caller_version(), code);
    print_escaped(message);
    fputs("\"}\n", stdout);
    fflush(stdout);
    _exit(1);
}

/* ---- Time ------------------------------------------------------------------------------------------------ */

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Wait until the descriptor is ready; false when the deadline has passed. */
static bool wait_for(int descriptor, short events) {
    for (;;) {
        int64_t left = deadline - now();
        if (left <= 0)
            return false;
        struct pollfd waiting = {descriptor, events, 0};
        int ready = poll(&waiting, 1, left > 1 << 30 ? 1 << 30 : (int)left);
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            return false;
    }
}

/* ---- Settings -------------------------------------------------------------------------------------------- */

static void set(const char *key, const char *value, const char *where) {
    if (strcmp(key, "socket") == 0) {
        if (strlen(value) >= sizeof settings.socket || value[0] != '/')
            fail(INVALID_CONFIG, "%s: socket %s: give an absolute path of at most %zu bytes", where, value,
                 sizeof settings.socket - 1);
        strcpy(settings.socket, value);
    } else if (strcmp(key, "deletions") == 0) {
        if (strlen(value) >= sizeof settings.deletions - 64 || value[0] != '/')
            fail(INVALID_CONFIG, "%s: deletions %s: give an absolute path", where, value);
        strcpy(settings.deletions, value);
    } else if (strcmp(key, "deadline") == 0) {
        char *end;
        errno = 0;
        settings.deadline = strtol(value, &end, 10);
        if (errno || end == value || *end || settings.deadline < 1 || settings.deadline > 600)
            fail(INVALID_CONFIG, "%s: deadline %s: give whole seconds from 1 to 600", where, value);
    } else {
        fail(INVALID_CONFIG, "%s: unknown setting %s: there are socket, deadline, deletions", where, key);
    }
}

static void read_settings(void) {
    FILE *file = fopen(SETTINGS_FILE, "re");
    if (!file && errno != ENOENT && errno != ENOTDIR)
        fail(INVALID_CONFIG, SETTINGS_FILE ": %s", strerror(errno));
    char line[4352];
    while (file && fgets(line, sizeof line, file)) {
        char *key = line + strspn(line, " \t");
        key[strcspn(key, "\r\n")] = 0;
        if (*key == 0 || *key == '#')
            continue;
        char *value = strchr(key, '=');
        if (!value)
            fail(INVALID_CONFIG, SETTINGS_FILE ": %s: write it as key=value", key);
        *value++ = 0;
        set(key, value, SETTINGS_FILE);
    }
    if (file)
        fclose(file);
    static const char *const variables[][2] = {
        {"WEFT_SOCKET", "socket"}, {"WEFT_DEADLINE", "deadline"}, {"WEFT_DELETIONS", "deletions"}};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i][0]);
        if (value && *value)
            set(variables[i][1], value, variables[i][0]);
    }
    deadline = now() + settings.deadline * 1000;
}

/* ---- The call -------------------------------------------------------------------------------------------- */

static void read_configuration(void) {
    for (;;) {
        if (!wait_for(STDIN_FILENO, POLLIN))
            fail(IO_FAILURE, "no end of the configuration on standard input within %ld s", settings.deadline);
        ssize_t got = read(STDIN_FILENO, configuration + configuration_length,
                           sizeof configuration - configuration_length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail(IO_FAILURE, "cannot read the configuration from standard input: %s", strerror(errno));
        if (got == 0)
            return;
        configuration_length += (size_t)got;
        if (configuration_length > LARGEST_CONFIGURATION)
            fail(UNDECODABLE, "the configuration on standard input is larger than %u bytes", LARGEST_CONFIGURATION);
    }
}

static bool is_word(const char *text) { /* [a-zA-Z0-9][a-zA-Z0-9_.-]* */
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    return *text && strchr("_.-", *text) == NULL && text[strspn(text, letters)] == 0;
}

static bool is_interface_name(const char *text) {
    size_t length = strlen(text);
    return length > 0 && length < 16 && strcmp(text, ".") != 0 && strcmp(text, "..") != 0 &&
           strpbrk(text, "/: \t\n\v\f\r") == NULL;
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

/* Refuse what the specification's section 2 does not allow, before anybody is bothered with it. */
static void check_environment(const char *command) {
    bool add = strcmp(command, "ADD") == 0, check = strcmp(command, "CHECK") == 0, del = strcmp(command, "DEL") == 0;
    bool other = strcmp(command, "GC") == 0 || strcmp(command, "STATUS") == 0;
    if (!add && !check && !del && !other)
        fail(INVALID_ENVIRONMENT, "unknown CNI_COMMAND: %s", command);
    const struct {
        const char *name;
        bool needed;
    } rules[] = {{"CNI_CONTAINERID", !other}, {"CNI_NETNS", add || check}, {"CNI_IFNAME", !other}, {"CNI_PATH", true}};
    char missing[128] = "";
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].needed && !*variable(rules[i].name))
            sprintf(missing + strlen(missing), "%s%s", *missing ? "," : "", rules[i].name);
    if (*missing)
        fail(INVALID_ENVIRONMENT, "required env variables [%s] missing", missing);
    if (*variable("CNI_CONTAINERID") && !is_word(variable("CNI_CONTAINERID")))
        fail(INVALID_ENVIRONMENT,
             "CNI_CONTAINERID %s: must begin with a letter or digit and hold only those, '_', '.' and '-'",
             variable("CNI_CONTAINERID"));
    if (*variable("CNI_IFNAME") && !is_interface_name(variable("CNI_IFNAME")))
        fail(INVALID_ENVIRONMENT, "CNI_IFNAME %s: must have 1 to 15 bytes, without '/', ':' and white space, not . or ..",
             variable("CNI_IFNAME"));
}

static void put_environment(const char *text) {
    size_t length = strlen(text) + 1;
    if (length > sizeof environment - environment_length)
        fail(INVALID_ENVIRONMENT, "the CNI_* variables are larger than %u bytes", LARGEST_ENVIRONMENT);
    memcpy(environment + environment_length, text, length);
    environment_length += length;
}

/* The sandbox's namespace as a descriptor. DEL does without one: the sandbox may be gone. */
static int open_namespace(const char *command) {
    const char *path = variable("CNI_NETNS");
    if (!*path || strcmp(command, "GC") == 0 || strcmp(command, "STATUS") == 0)
        return -1;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct statfs kind;
    int error = descriptor < 0 ? errno : 0;
    if (descriptor >= 0 && (fstatfs(descriptor, &kind) < 0 || (kind.f_type != NSFS_MAGIC && kind.f_type != PROC_MAGIC))) {
        close(descriptor);
        descriptor = -1;
    }
    if (descriptor < 0 && strcmp(command, "DEL") != 0)
        fail(INVALID_ENVIRONMENT, "CNI_NETNS %s: %s", path, error ? strerror(error) : "not a network namespace");
    return descriptor;
}

/* ---- The agent ------------------------------------------------------------------------------------------- */

static void put_u32(unsigned char *place, uint32_t value) {
    for (int i = 0; i < 4; i++)
        place[i] = (unsigned char)(value >> 8 * i);
}

static uint32_t get_u32(const unsigned char *place) {
    return place[0] | (uint32_t)place[1] << 8 | (uint32_t)place[2] << 16 | (uint32_t)place[3] << 24;
}

static void request_header(unsigned char header[16], uint32_t flags) {
    memcpy(header, "WFT1", 4);
    put_u32(header + 4, (uint32_t)environment_length);
    put_u32(header + 8, (uint32_t)configuration_length);
    put_u32(header + 12, flags);
}

/* A connection to the agent, or -1 with the reason. A full backlog is waited for. */
static int connect_agent(const char **reason) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, settings.socket);
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    while (connection >= 0 && connect(connection, (struct sockaddr *)&address, sizeof address) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || now() >= deadline) {
            int error = errno;
            *reason = error == EAGAIN ? "it does not accept" : strerror(error);
            close(connection);
            errno = error;
            return -1;
        }
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    if (connection < 0)
        *reason = strerror(errno);
    return connection;
}

static bool send_request(int connection, int namespace, const char **reason) {
    unsigned char header[16];
    request_header(header, namespace >= 0 ? WITH_NAMESPACE : 0);
    struct iovec parts[3] = {{header, sizeof header}, {environment, environment_length}, {configuration, configuration_length}};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    if (namespace >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &namespace, sizeof(int));
    }
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(connection, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            if (wait_for(connection, POLLOUT))
                continue;
            *reason = "it does not take the request in time";
            errno = ETIMEDOUT;
            return false;
        }
        if (sent < 0) {
            *reason = strerror(errno);
            return false;
        }
        message.msg_control = NULL;
        message.msg_controllen = 0;
        for (size_t left = (size_t)sent; message.msg_iovlen > 0;) {
            if (left < message.msg_iov->iov_len) {
                message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + left;
                message.msg_iov->iov_len -= left;
                break;
            }
            left -= message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
    }
    return true;
}

static bool receive(int connection, void *place, size_t length, const char **reason) {
    for (size_t have = 0; have < length;) {
        ssize_t got = recv(connection, (char *)place + have, length - have, 0);
        if (got > 0) {
            have += (size_t)got;
        } else if (got == 0) {
            *reason = "it went away before it answered";
            errno = 0;
            return false;
        } else if (errno == EAGAIN) {
            if (!wait_for(connection, POLLIN)) {
                *reason = "no answer in time";
                errno = ETIMEDOUT;
                return false;
            }
        } else if (errno != EINTR) {
            *reason = strerror(errno);
            return false;
        }
    }
    return true;
}

/* Whether what failed says that no agent has read the request: nobody listens (ENOENT, ECONNREFUSED), or whoever did
 * closed the connection with bytes of the request unread, for which a unix socket has its own error. */
static bool is_unread(int error) {
    return error == ENOENT || error == ECONNREFUSED || error == ECONNRESET || error == EPIPE;
}

/* Hand the call over and print the answer. Returns only when there is none, with the reason.
 *
 * A patient call waits, until the deadline, for an agent that is about to start again. */
static const char *ask_agent(int namespace, bool patient) {
    const char *reason = "";
    unsigned char header[12];
    int connection;
    for (;;) {
        errno = 0;
        connection = connect_agent(&reason);
        if (connection >= 0 && send_request(connection, namespace, &reason) &&
            receive(connection, header, sizeof header, &reason))
            break;
        if (!patient || !is_unread(errno) || now() >= deadline)
            return reason;
        if (connection >= 0)
            close(connection);
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    uint32_t status = get_u32(header + 4), length = get_u32(header + 8);
    if (memcmp(header, "WFT1", 4) != 0 || status > 255 || length > LARGEST_OUTPUT)
        return "it does not speak this launcher's protocol";
    char *output = malloc(length ? length : 1);
    if (!output)
        return strerror(ENOMEM);
    if (!receive(connection, output, length, &reason))
        return reason;
    write_all(STDOUT_FILENO, output, length);
    _exit((int)status);
}

/* ---- A DEL that no agent answers --------------------------------------------------------------------------- */

static bool make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = 0;
        bool failed = mkdir(path, 0700) < 0 && errno != EEXIST;
        if (!slash)
            return !failed;
        *slash = '/';
        if (failed)
            return false;
    }
}

/* Write the call where the next agent finds it; it is on disk when this returns. */
static void defer_deletion(const char *no_agent) {
    char folder[sizeof settings.deletions];
    strcpy(folder, settings.deletions);
    const char *what = folder;
    if (!make_folders(folder))
        goto failed;
    int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    struct stat owner;
    if (directory < 0 || fstat(directory, &owner) < 0)
        goto failed;
    if (owner.st_uid != geteuid() || (owner.st_mode & 077))
        fail(TRY_AGAIN, "no agent at %s (%s), and the deletion cannot be kept: %s must be root's alone (mode 0700)",
             settings.socket, no_agent, folder);
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    char name[96], temporary[97];
    snprintf(name, sizeof name, "%lld.%09ld-%d", (long long)time.tv_sec, time.tv_nsec, (int)getpid());
    snprintf(temporary, sizeof temporary, ".%s", name);
    unsigned char header[16];
    request_header(header, 0);
    int file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        goto failed;
    const struct iovec parts[] = {{header, sizeof header}, {environment, environment_length}, {configuration, configuration_length}};
    for (size_t i = 0; i < 3; i++)
        for (size_t have = 0; have < parts[i].iov_len;) {
            ssize_t done = write(file, (const char *)parts[i].iov_base + have, parts[i].iov_len - have);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0)
                goto undo;
            have += (size_t)done;
        }
    if (fsync(file) < 0 || close(file) < 0 || renameat(directory, temporary, directory, name) < 0 || fsync(directory) < 0)
        goto undo;
    _exit(0);
undo:;
    int error = errno;
    unlinkat(directory, temporary, 0);
    errno = error;
failed:
    fail(TRY_AGAIN, "no agent at %s (%s), and the deletion cannot be kept in %s: %s", settings.socket, no_agent, what,
         strerror(errno));
}

/* ---- The whole --------------------------------------------------------------------------------------------- */

/* Print the versions that the plugin answers, each between quotes of the caller's choice. */
static void print_versions(FILE *stream, const char *plugin, const char *quote) {
    static const char *const versions[] = {SUPPORTED}, *const oldest[][2] = {OLDEST};
    const char *first = versions[0];
    for (size_t i = 0; i < sizeof oldest / sizeof *oldest; i++)
        if (strcmp(plugin, oldest[i][0]) == 0)
            first = oldest[i][1];
    bool begun = false;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        if (!begun && strcmp(versions[i], first) != 0)
            continue;
        fprintf(stream, "%s%s%s%s", begun ? ", " : "", quote, versions[i], quote);
        begun = true;
    }
}

int main(int count, char **arguments) {
    const char *slash = count > 0 ? strrchr(arguments[0], '/') : NULL;
    const char *plugin = slash ? slash + 1 : count > 0 ? arguments[0] : "";
    const char *command = getenv("CNI_COMMAND");
    signal(SIGPIPE, SIG_IGN);
    if (!command || !*command) {
        fprintf(stderr, "CNI plugin %s, served by the Weft agent\nCNI protocol versions supported: ", plugin);
        print_versions(stderr, plugin, "");
        fputs("\n", stderr);
        return 0;
    }
    read_settings();
    read_configuration();
    if (strcmp(command, "VERSION") == 0) {
        fputs("{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [", stdout);
        print_versions(stdout, plugin, "\"");
        puts("]}");
        return fflush(stdout) ? 1 : 0;
    }
    check_environment(command);
    if (configuration_length == 0)
        fail(UNDECODABLE, "no configuration on standard input");
    put_environment(plugin);
    char command_variable[32];
    snprintf(command_variable, sizeof command_variable, "CNI_COMMAND=%s", command);
    put_environment(command_variable);
    for (char **each = environ; *each; each++)
        if (strncmp(*each, "CNI_", 4) == 0 && strncmp(*each, "CNI_COMMAND=", 12) != 0 && strchr(*each, '='))
            put_environment(*each);
    const char *reason = ask_agent(open_namespace(command), strcmp(command, "ADD") == 0);
    if (strcmp(command, "DEL") == 0)
        defer_deletion(reason);
    fail(strcmp(command, "STATUS") == 0 ? NOT_AVAILABLE : TRY_AGAIN, "no agent answers at %s: %s", settings.socket, reason);
}
