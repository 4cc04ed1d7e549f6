//! Does rumqttc work, with MQTT 3.1.1 and 5, plain and over TLS?

use std::sync::Arc;
use std::time::Duration;

use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::within;
use postern_tests::{Gateway, Scope, Setup, Shared};
use rumqttc::{TlsConfiguration, Transport};

fn tls(gateway: &Gateway) -> Transport {
    let config = client_config(&gateway.ca(), ALL_VERSIONS);
    Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&config)))
}

/// The two halves of rumqttc have the same shape and different types.
macro_rules! peer {
    ($module:ident, $options:path, $client:path, $event_loop:path, $qos:path, $packets:path, $event:path, $clean:ident) => {
        mod $module {
            use super::*;
            use $event as Event;
            use $packets as Packet;
            use $qos as QoS;

            pub struct Peer {
                pub client: $client,
                events: $event_loop,
            }

            impl Peer {
                pub fn new(gateway: &Gateway, id: &str, encrypted: bool, clean: bool) -> Self {
                    let address = if encrypted {
                        gateway.addresses.mqtts
                    } else {
                        gateway.addresses.mqtt
                    };
                    let mut options = <$options>::new(id, "localhost", address.port());
                    options.set_credentials(&gateway.admin.name, &gateway.admin.password);
                    options.set_keep_alive(Duration::from_secs(30));
                    options.$clean(clean);
                    if encrypted {
                        options.set_transport(tls(gateway));
                    }
                    let options = adjust(options);
                    let (client, events) = <$client>::new(options, 400);
                    Self { client, events }
                }

                async fn packet(&mut self) -> Packet {
                    within("a packet for rumqttc", async {
                        loop {
                            if let Event::Incoming(packet) =
                                self.events.poll().await.expect("rumqttc is content")
                            {
                                return packet;
                            }
                        }
                    })
                    .await
                }

                /// Whether the gateway had a session for it.
                pub async fn session_present(&mut self) -> bool {
                    loop {
                        if let Packet::ConnAck(connack) = self.packet().await {
                            return connack.session_present;
                        }
                    }
                }

                pub async fn subscribe(&mut self, filter: &str) {
                    self.client
                        .subscribe(filter, QoS::ExactlyOnce)
                        .await
                        .expect("queued");
                    while !matches!(self.packet().await, Packet::SubAck(_)) {}
                }

                pub async fn publish(&mut self, topic: &str, qos: QoS, text: &str) {
                    self.client
                        .publish(topic, qos, false, text.to_owned())
                        .await
                        .expect("queued");
                }

                pub async fn message(&mut self) -> (u8, String) {
                    loop {
                        if let Packet::Publish(publish) = self.packet().await {
                            return (
                                publish.qos as u8,
                                String::from_utf8_lossy(&publish.payload).into_owned(),
                            );
                        }
                    }
                }

                /// Handles events until the gateway has acknowledged `count` messages at QoS 1.
                pub async fn acknowledged(&mut self, mut count: usize) {
                    while count > 0 {
                        if matches!(self.packet().await, Packet::PubAck(_)) {
                            count -= 1;
                        }
                    }
                }
            }

            async fn round_trip(encrypted: bool) {
                let gateway = Shared::start(Setup::new()).await;
                let scope = Scope::new();
                let topic = scope.topic("rumqttc");
                let mut peer = Peer::new(&gateway, &scope.id("rumqttc"), encrypted, true);
                assert!(!peer.session_present().await);
                peer.subscribe(&topic).await;
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    let wanted: Vec<String> = (0..100).map(|n| format!("{qos:?} {n}")).collect();
                    for text in &wanted {
                        peer.publish(&topic, qos, text).await;
                    }
                    for text in wanted {
                        assert_eq!(peer.message().await, (qos as u8, text));
                    }
                }
            }

            #[tokio::test]
            async fn every_qos_arrives_in_order_over_plain_tcp() {
                round_trip(false).await;
            }

            #[tokio::test]
            async fn every_qos_arrives_in_order_over_tls() {
                round_trip(true).await;
            }

            #[tokio::test]
            async fn a_session_is_resumed_with_its_queue() {
                let gateway = Shared::start(Setup::new()).await;
                let scope = Scope::new();
                let (topic, id) = (scope.topic("queue"), scope.id("session"));
                let mut first = Peer::new(&gateway, &id, true, false);
                assert!(!first.session_present().await);
                first.subscribe(&topic).await;
                drop(first);
                let mut publisher = Peer::new(&gateway, &scope.id("publisher"), true, true);
                for n in 0..50 {
                    publisher
                        .publish(&topic, QoS::AtLeastOnce, &n.to_string())
                        .await;
                }
                publisher.acknowledged(50).await;
                let mut second = Peer::new(&gateway, &id, true, false);
                assert!(second.session_present().await);
                for n in 0..50 {
                    assert_eq!(second.message().await, (1, n.to_string()));
                }
            }
        }
    };
}

peer!(
    v3_1_1,
    rumqttc::MqttOptions,
    rumqttc::AsyncClient,
    rumqttc::EventLoop,
    rumqttc::QoS,
    rumqttc::Packet,
    rumqttc::Event,
    set_clean_session
);
peer!(
    v5,
    rumqttc::v5::MqttOptions,
    rumqttc::v5::AsyncClient,
    rumqttc::v5::EventLoop,
    rumqttc::v5::mqttbytes::QoS,
    rumqttc::v5::mqttbytes::v5::Packet,
    rumqttc::v5::Event,
    set_clean_start
);

/// What only one of the two halves needs.
trait Adjust: Sized {
    fn adjusted(self) -> Self {
        self
    }
}

impl Adjust for rumqttc::MqttOptions {}

impl Adjust for rumqttc::v5::MqttOptions {
    fn adjusted(mut self) -> Self {
        self.set_session_expiry_interval(Some(600));
        self
    }
}

fn adjust<T: Adjust>(options: T) -> T {
    options.adjusted()
}
