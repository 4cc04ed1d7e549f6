// What does a small device need? An MQTT client on BearSSL, the TLS library of the ESP8266 Arduino core, with buffers
// as small as such a device has. BearSSL asks for max_fragment_length by itself when its receive buffer is small, and
// it has no session tickets.
//
//   bearssl-client PORT CA.der RECEIVE USER PASSWORD TOPIC CONNECTIONS
//
// RECEIVE is the largest plaintext of a record that its receive buffer takes, in bytes. The server is 127.0.0.1, its
// name localhost. It subscribes to TOPIC, prints "subscribed", waits for one message, and prints
//
//   message BYTES PATTERN   whether byte i of the payload is i modulo 251: "intact" or "damaged"
//   resumed 0|1             of each connection
//   memory BYTES            of the TLS context, the certificate validator and both buffers
//
// CONNECTIONS after the first resume the session of the first one, if the server lets them, and only log in.
// Exit codes: 0 done, 1 TLS or MQTT failed ("error N" is BearSSL's number, 0 if it was not TLS), 2 wrong use.
#include <arpa/inet.h>
#include <bearssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SEND = 512, RECORD = 16384, PAYLOAD = 65536 };

struct trust {
	unsigned char der[4096], name[512], key[256];
	size_t name_length;
	br_x509_trust_anchor anchor;
};

struct device {
	br_ssl_client_context tls;
	br_x509_minimal_context validator;
	br_sslio_context io;
	int socket;
};

static void wrong_use(const char *what)
{
	fprintf(stderr, "bearssl-client: %s\n", what);
	exit(2);
}

static void failed(struct device *device, const char *what)
{
	printf("error %d %s\n", br_ssl_engine_last_error(&device->tls.eng), what);
	exit(1);
}

static void append_name(void *context, const void *bytes, size_t length)
{
	struct trust *trust = context;
	if (trust->name_length + length > sizeof trust->name)
		wrong_use("the name of the CA is too long");
	memcpy(trust->name + trust->name_length, bytes, length);
	trust->name_length += length;
}

// Trusts the one certificate in `file`.
static void trust_file(struct trust *trust, const char *file)
{
	FILE *stream = fopen(file, "rb");
	if (stream == NULL)
		wrong_use("the CA cannot be read");
	size_t length = fread(trust->der, 1, sizeof trust->der, stream);
	fclose(stream);
	br_x509_decoder_context decoder;
	br_x509_decoder_init(&decoder, append_name, trust);
	br_x509_decoder_push(&decoder, trust->der, length);
	const br_x509_pkey *key = br_x509_decoder_get_pkey(&decoder);
	if (key == NULL || key->key_type != BR_KEYTYPE_EC || key->key.ec.qlen > sizeof trust->key)
		wrong_use("the CA is not a certificate with an EC key in DER");
	memcpy(trust->key, key->key.ec.q, key->key.ec.qlen);
	trust->anchor.dn.data = trust->name;
	trust->anchor.dn.len = trust->name_length;
	trust->anchor.flags = BR_X509_TA_CA;
	trust->anchor.pkey = *key;
	trust->anchor.pkey.key.ec.q = trust->key;
}

static int receive(void *context, unsigned char *bytes, size_t length)
{
	ssize_t count = read(*(int *)context, bytes, length);
	return count <= 0 ? -1 : (int)count;
}

static int transmit(void *context, const unsigned char *bytes, size_t length)
{
	ssize_t count = write(*(int *)context, bytes, length);
	return count <= 0 ? -1 : (int)count;
}

static void dial(struct device *device, int port)
{
	struct sockaddr_in server = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	device->socket = socket(AF_INET, SOCK_STREAM, 0);
	if (device->socket < 0 || connect(device->socket, (struct sockaddr *)&server, sizeof server) != 0)
		wrong_use("nothing listens on the port");
	br_sslio_init(&device->io, &device->tls.eng, receive, &device->socket, transmit, &device->socket);
}

static void send_packet(struct device *device, const unsigned char *packet, size_t length)
{
	if (br_sslio_write_all(&device->io, packet, length) != 0 || br_sslio_flush(&device->io) != 0)
		failed(device, "while sending");
}

static void expect(struct device *device, unsigned char *bytes, size_t length)
{
	if (br_sslio_read_all(&device->io, bytes, length) != 0)
		failed(device, "while receiving");
}

static size_t put_string(unsigned char *at, const char *text)
{
	size_t length = strlen(text);
	if (length > 100)
		wrong_use("a name is longer than 100 bytes");
	at[0] = 0;
	at[1] = (unsigned char)length;
	memcpy(at + 2, text, length);
	return length + 2;
}

// CONNECT of MQTT 3.1.1 with a clean session, and its answer.
static void log_in(struct device *device, const char *user, const char *password)
{
	static const unsigned char head[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 0xC2, 0, 60};
	unsigned char body[400], packet[404], answer[4];
	size_t length = sizeof head;
	memcpy(body, head, sizeof head);
	length += put_string(body + length, "");
	length += put_string(body + length, user);
	length += put_string(body + length, password);
	packet[0] = 0x10;
	packet[1] = (unsigned char)(length % 128 | (length > 127 ? 0x80 : 0));
	packet[2] = (unsigned char)(length / 128);
	size_t fixed = length > 127 ? 3 : 2;
	memcpy(packet + fixed, body, length);
	send_packet(device, packet, fixed + length);
	expect(device, answer, sizeof answer);
	if (answer[0] != 0x20 || answer[3] != 0)
		failed(device, "the login was refused");
}

static void subscribe(struct device *device, const char *topic)
{
	unsigned char packet[110] = {0x82, 0, 0, 1}, answer[5];
	size_t length = 4 + put_string(packet + 4, topic);
	packet[length++] = 0;
	packet[1] = (unsigned char)(length - 2);
	send_packet(device, packet, length);
	expect(device, answer, sizeof answer);
	if (answer[0] != 0x90 || answer[4] != 0)
		failed(device, "the subscription was refused");
}

static size_t remaining_length(struct device *device)
{
	size_t length = 0;
	unsigned char byte = 0x80;
	for (int shift = 0; byte & 0x80; shift += 7) {
		expect(device, &byte, 1);
		length |= (size_t)(byte & 0x7F) << shift;
	}
	return length;
}

// Prints what a PUBLISH at QoS 0 carries.
static void take_message(struct device *device)
{
	static unsigned char bytes[PAYLOAD];
	unsigned char first;
	expect(device, &first, 1);
	size_t length = remaining_length(device);
	if (first >> 4 != 3 || length > sizeof bytes || length < 2)
		failed(device, "this is no message");
	expect(device, bytes, length);
	size_t topic = 2 + ((size_t)bytes[0] << 8 | bytes[1]);
	const char *verdict = "intact";
	for (size_t i = topic; i < length; i++)
		if (bytes[i] != (i - topic) % 251)
			verdict = "damaged";
	printf("message %zu %s\n", length - topic, verdict);
}

int main(int count, char **arguments)
{
	static struct trust trust;
	static struct device device;
	if (count != 8)
		wrong_use("PORT CA.der RECEIVE USER PASSWORD TOPIC CONNECTIONS");
	int port = atoi(arguments[1]), connections = atoi(arguments[7]);
	size_t in = (size_t)atoi(arguments[3]) + BR_SSL_BUFSIZE_INPUT - RECORD;
	size_t out = SEND + BR_SSL_BUFSIZE_OUTPUT - RECORD;
	trust_file(&trust, arguments[2]);
	unsigned char *in_buffer = malloc(in), *out_buffer = malloc(out);
	if (in_buffer == NULL || out_buffer == NULL)
		wrong_use("no memory");

	br_ssl_session_parameters first;
	for (int number = 0; number < connections; number++) {
		br_ssl_client_init_full(&device.tls, &device.validator, &trust.anchor, 1);
		br_ssl_engine_set_versions(&device.tls.eng, BR_TLS12, BR_TLS12);
		br_ssl_engine_set_buffers_bidi(&device.tls.eng, in_buffer, in, out_buffer, out);
		if (number > 0)
			br_ssl_engine_set_session_parameters(&device.tls.eng, &first);
		if (!br_ssl_client_reset(&device.tls, "localhost", number > 0))
			failed(&device, "before the handshake");
		dial(&device, port);
		log_in(&device, arguments[4], arguments[5]);

		br_ssl_session_parameters now;
		br_ssl_engine_get_session_parameters(&device.tls.eng, &now);
		// A resumed session keeps its master secret, a new one never has the same.
		int resumed = number > 0 && memcmp(first.master_secret, now.master_secret, sizeof now.master_secret) == 0;
		if (number == 0) {
			first = now;
			subscribe(&device, arguments[6]);
			printf("subscribed\n");
			fflush(stdout);
			take_message(&device);
		}
		printf("resumed %d\n", resumed);
		static const unsigned char disconnect[] = {0xE0, 0};
		send_packet(&device, disconnect, sizeof disconnect);
		close(device.socket);
	}
	printf("memory %zu\n", sizeof device.tls + sizeof device.validator + in + out);
	return 0;
}
