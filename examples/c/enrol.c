/* A device in C: enrols over EST (RFC 7030) and renews, with OpenSSL 3 and nothing else.
 *
 *   gcc -Wall -Wextra -O2 -o enrol enrol.c -lssl -lcrypto
 *   ./enrol 127.0.0.1 9443 pump pump-7
 *
 * The folder (here `pump`) holds root.pem, bootstrap.pem and bootstrap.key. The first run makes device.key and gets
 * device.pem; each further run renews device.pem with the same key. The rules that it keeps, and that yours should:
 *
 *   1. The server proves itself by root.pem alone and by its name, before anything is told to it.
 *   2. The key is on the disk, readable by its owner alone, before the request is sent. If the answer is lost, run it
 *      again: the same key gets the same certificate.
 *   3. The request is bound to its TLS connection (RFC 7030 3.5; RFC 9266), so that nobody can pass it on.
 *   4. The answer counts if it is one certificate, for this key. It takes the place of the old one whole.
 *   5. All of it has a deadline.
 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs7.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

enum { DEADLINE_SECONDS = 30, ANSWER_MAXIMUM = 64 * 1024, PATH_MAXIMUM = 512 };

static void fail(const char *what)
{
    fprintf(stderr, "enrol: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(EXIT_FAILURE);
}

static void *must(void *pointer, const char *what)
{
    if (pointer == NULL)
        fail(what);
    return pointer;
}

static const char *in_folder(const char *folder, const char *name, char path[PATH_MAXIMUM])
{
    int length = snprintf(path, PATH_MAXIMUM, "%s/%s", folder, name);
    if (length < 0 || length >= PATH_MAXIMUM)
        fail("the folder's name is too long");
    return path;
}

/* Write a file whole or not at all, with its mode from the first moment, and on the disk when this returns. */
static void write_whole(const char *folder, const char *name, mode_t mode, BIO *content)
{
    char fresh[PATH_MAXIMUM], path[PATH_MAXIMUM], hidden[64];
    char *data = NULL;
    long left = BIO_get_mem_data(content, &data);

    snprintf(hidden, sizeof hidden, ".%s.new", name);
    unlink(in_folder(folder, hidden, fresh));
    int file = open(fresh, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (file < 0)
        fail("a file cannot be made");
    while (left > 0) {
        ssize_t written = write(file, data, (size_t)left);
        if (written <= 0)
            fail("a file cannot be written");
        data += written;
        left -= written;
    }
    if (fsync(file) != 0 || close(file) != 0 || rename(fresh, in_folder(folder, name, path)) != 0)
        fail("a file cannot be kept");
    int names = open(folder, O_RDONLY | O_DIRECTORY);
    if (names < 0 || fsync(names) != 0)
        fail("the folder cannot be synchronised");
    close(names);
}

/* Return the device's key: the one on disk, or a new one that is on disk now. */
static EVP_PKEY *device_key(const char *folder)
{
    char path[PATH_MAXIMUM];
    EVP_PKEY *key = NULL;
    FILE *file = fopen(in_folder(folder, "device.key", path), "r");

    if (file != NULL) {
        key = must(PEM_read_PrivateKey(file, NULL, NULL, NULL), "device.key cannot be read");
        fclose(file);
        return key;
    }
    key = must(EVP_EC_gen("P-256"), "no key can be made");
    BIO *pem = must(BIO_new(BIO_s_mem()), "memory");
    if (PEM_write_bio_PKCS8PrivateKey(pem, key, NULL, NULL, 0, NULL, NULL) != 1)
        fail("the key cannot be written");
    write_whole(folder, "device.key", 0600, pem);
    BIO_free(pem);
    return key;
}

/* Rule 1: trust root.pem and nothing else; show the bootstrap certificate, or the device's own. */
static SSL_CTX *client_context(const char *folder, int is_renewal)
{
    char path[PATH_MAXIMUM];
    SSL_CTX *context = must(SSL_CTX_new(TLS_client_method()), "no TLS");

    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_load_verify_file(context, in_folder(folder, "root.pem", path)) != 1)
        fail("root.pem cannot be used");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_X509_STRICT);
    in_folder(folder, is_renewal ? "device.pem" : "bootstrap.pem", path);
    if (SSL_CTX_use_certificate_chain_file(context, path) != 1)
        fail("there is no certificate to show");
    in_folder(folder, is_renewal ? "device.key" : "bootstrap.key", path);
    if (SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1)
        fail("the certificate's key cannot be used");
    return context;
}

/* Connect; when this returns, the server has proved to be `host`. */
static SSL *connect_to(SSL_CTX *context, const char *host, const char *port, BIO **connection)
{
    SSL *tls = NULL;

    *connection = must(BIO_new_ssl_connect(context), "no connection");
    BIO_get_ssl(*connection, &tls);
    BIO_set_conn_hostname(*connection, host);
    BIO_set_conn_port(*connection, port);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), host) != 1) { /* it is a name, then */
        if (SSL_set1_host(tls, host) != 1 || SSL_set_tlsext_host_name(tls, host) != 1)
            fail("that is no name of a host");
    }
    ERR_clear_error();
    if (BIO_do_connect(*connection) != 1 || BIO_do_handshake(*connection) != 1)
        fail("no connection to the server, or it is not trusted");
    return tls;
}

/* Rule 3: what only the two ends of this connection know, in base64. */
static void channel_binding(SSL *tls, char text[65])
{
    unsigned char binding[EVP_MAX_MD_SIZE];
    static const char label[] = "EXPORTER-Channel-Binding"; /* RFC 9266 */
    size_t length = 32;

    if (SSL_version(tls) >= TLS1_3_VERSION) {
        if (SSL_export_keying_material(tls, binding, length, label, sizeof label - 1, NULL, 0, 1) != 1)
            fail("no channel binding");
    } else {
        length = SSL_get_finished(tls, binding, sizeof binding); /* tls-unique, RFC 5929 3.1 */
        if (length > 32)
            fail("the channel binding is too long");
    }
    EVP_EncodeBlock((unsigned char *)text, binding, (int)length);
}

/* Return the request in base64, in lines of 64 columns (RFC 7030 4.2.1). */
static BIO *signed_request(EVP_PKEY *key, const char *identifier, SSL *tls)
{
    char names[160], password[65];
    X509_REQ *request = must(X509_REQ_new(), "memory");
    X509_NAME *subject = X509_REQ_get_subject_name(request);

    snprintf(names, sizeof names, "URI:urn:doorward:device:%s", identifier);
    channel_binding(tls, password);
    X509_EXTENSION *name = must(X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names), "the identifier is wrong");
    STACK_OF(X509_EXTENSION) *extensions = must(sk_X509_EXTENSION_new_null(), "memory");
    sk_X509_EXTENSION_push(extensions, name);
    if (X509_REQ_set_version(request, X509_REQ_VERSION_1) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)identifier, -1, -1, 0) != 1 ||
        X509_REQ_add_extensions(request, extensions) != 1 ||
        X509_REQ_add1_attr_by_NID(request, NID_pkcs9_challengePassword, MBSTRING_UTF8, (unsigned char *)password,
                                  -1) != 1 ||
        X509_REQ_set_pubkey(request, key) != 1 || X509_REQ_sign(request, key, EVP_sha256()) == 0)
        fail("the request cannot be made");
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);

    BIO *text = must(BIO_new(BIO_s_mem()), "memory");
    BIO *encoder = BIO_push(must(BIO_new(BIO_f_base64()), "memory"), text);
    if (i2d_X509_REQ_bio(encoder, request) != 1 || BIO_flush(encoder) != 1)
        fail("the request cannot be encoded");
    BIO_pop(encoder);
    BIO_free(encoder);
    X509_REQ_free(request);
    return text;
}

/* Send the request and read the whole answer; return its length. */
static int exchange(BIO *connection, const char *host, const char *operation, BIO *request, char *answer)
{
    char *body = NULL;
    int length = 0, count = 0;
    long size = BIO_get_mem_data(request, &body);

    BIO_printf(connection,
               "POST /.well-known/est/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
               "Content-Type: application/pkcs10\r\nContent-Length: %ld\r\n\r\n",
               operation, host, size);
    if (BIO_write(connection, body, (int)size) != size || BIO_flush(connection) != 1)
        fail("the request cannot be sent");
    while ((count = BIO_read(connection, answer + length, ANSWER_MAXIMUM - length)) > 0)
        length += count;
    if (length >= ANSWER_MAXIMUM)
        fail("the answer is too long");
    answer[length] = '\0';
    return length;
}

static const char *header(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            line += length + 1;
            return line + strspn(line, " \t");
        }
    }
    return "";
}

/* Return the one certificate of a good answer; end the program, with the server's own words, on any other. */
static X509 *certificate_of(char *answer, int length, EVP_PKEY *key)
{
    static const char type[] = "application/pkcs7-mime";
    char *body = strstr(answer, "\r\n\r\n");
    int status = 0;

    if (body == NULL || sscanf(answer, "HTTP/1.%*1d %3d", &status) != 1)
        fail("that is no HTTP");
    *body = '\0';
    body += 4;
    int size = (int)(answer + length - body);
    if (atoi(header(answer, "Content-Length")) != size)
        fail("the answer has not arrived whole: run this again");
    if (status != 200) {
        for (char *one = body; *one != '\0'; one++)
            if (!isprint((unsigned char)*one))
                *one = ' ';
        fprintf(stderr, "enrol: %d %s\n", status, body);
        if (status == 202)
            fprintf(stderr, "enrol: an operator has to approve it; run this again in %d s\n",
                    atoi(header(answer, "Retry-After")));
        exit(status == 202 ? 3 : EXIT_FAILURE);
    }
    if (strncmp(header(answer, "Content-Type"), type, sizeof type - 1) != 0)
        fail("that is no answer of EST");

    BIO *decoder = BIO_push(must(BIO_new(BIO_f_base64()), "memory"), must(BIO_new_mem_buf(body, size), "memory"));
    PKCS7 *message = must(d2i_PKCS7_bio(decoder, NULL), "the answer is no PKCS #7");
    BIO_free_all(decoder);
    if (!PKCS7_type_is_signed(message) || sk_X509_num(message->d.sign->cert) != 1)
        fail("the answer is not one certificate");
    X509 *certificate = sk_X509_value(message->d.sign->cert, 0);
    if (X509_check_private_key(certificate, key) != 1)
        fail("the certificate is for another key");
    X509_up_ref(certificate);
    PKCS7_free(message);
    return certificate;
}

int main(int count, char **arguments)
{
    static char answer[ANSWER_MAXIMUM + 1];
    char path[PATH_MAXIMUM];
    BIO *connection = NULL;

    if (count != 5) {
        fprintf(stderr, "usage: enrol HOST PORT FOLDER IDENTIFIER\n");
        return 2;
    }
    const char *host = arguments[1], *folder = arguments[3], *identifier = arguments[4];
    alarm(DEADLINE_SECONDS); /* rule 5: whatever hangs ends here, and nothing is lost by that */

    EVP_PKEY *key = device_key(folder);
    int is_renewal = access(in_folder(folder, "device.pem", path), F_OK) == 0;
    SSL_CTX *context = client_context(folder, is_renewal);
    SSL *tls = connect_to(context, host, arguments[2], &connection);
    BIO *request = signed_request(key, identifier, tls);
    int length = exchange(connection, host, is_renewal ? "simplereenroll" : "simpleenroll", request, answer);
    X509 *certificate = certificate_of(answer, length, key);

    BIO *pem = must(BIO_new(BIO_s_mem()), "memory");
    PEM_write_bio_X509(pem, certificate);
    write_whole(folder, "device.pem", 0644, pem);
    printf("%s until ", is_renewal ? "renewed" : "enrolled");
    BIO *out = BIO_new_fp(stdout, BIO_NOCLOSE);
    ASN1_TIME_print(out, X509_get0_notAfter(certificate));
    BIO_puts(out, "\n");
    BIO_flush(out);

    BIO_free(out);
    BIO_free(pem);
    BIO_free(request);
    BIO_free_all(connection);
    X509_free(certificate);
    EVP_PKEY_free(key);
    SSL_CTX_free(context);
    return EXIT_SUCCESS;
}
